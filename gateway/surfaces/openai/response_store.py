"""Keeps the last responses of each caller for a while, so that the next request may go on from one. In memory alone.

Owns what is kept, for how long and how much. Who asks for it is told only of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.shares import Shares

MAX_KEPT_BYTES = 64 << 20
"""Of all callers together: a few thousand conversations of usual length. One that is alone may have half of it."""

ENTRY_BYTES = 1024
"""What keeping a response costs besides its bytes."""


@dataclass(frozen=True)
class KeptResponse:
    """A response as its client got it, and the items of the conversation up to its end, as JSON."""

    document: bytes
    items: bytes
    kept_s: float

    @property
    def size(self) -> int:
        return ENTRY_BYTES + len(self.document) + len(self.items)

    def conversation(self) -> list[dict[str, Any]]:
        return msgspec.json.decode(self.items, type=list[dict[str, Any]])


class ResponseStore:
    """Keeps each response for `keep_s` seconds, 0 is not at all. A caller that has no room left loses its oldest."""

    def __init__(self, keep_s: float, now_s: Callable[[], float], max_bytes: int = MAX_KEPT_BYTES) -> None:
        self.keep_s = keep_s
        self._now_s = now_s
        self._kept: OrderedDict[tuple[str, str], KeptResponse] = OrderedDict()
        """By caller and id, oldest first."""
        self._own: dict[str, dict[str, None]] = {}
        """The ids of each caller, oldest first."""
        self._shares = Shares(max_bytes)

    @property
    def kept_bytes(self) -> int:
        return self._shares.taken

    def keep(self, caller: str, document: dict[str, Any], before: Sequence[dict[str, Any]]) -> None:
        """Keep a response that follows the items `before`."""
        self._expire()
        items = msgspec.json.encode([*before, *document["output"]])
        kept = KeptResponse(msgspec.json.encode(document), items, self._now_s())
        while not self._shares.has_room(caller, kept.size):
            if caller not in self._own:
                return
            self._drop(caller, next(iter(self._own[caller])))
        self._kept[caller, document["id"]] = kept
        self._own.setdefault(caller, {})[document["id"]] = None
        self._shares.take(caller, kept.size)

    def find(self, caller: str, response_id: str) -> KeptResponse | None:
        """None where this caller has no such response, or has it no more."""
        self._expire()
        return self._kept.get((caller, response_id))

    def find_item(self, caller: str, item_id: str) -> dict[str, Any] | None:
        """An item of the output of one of this caller's responses. Its id has that of the response in the middle."""
        _, _, rest = item_id.partition("_")
        kept = self.find(caller, f"resp_{rest.rpartition('_')[0]}")
        items = [] if kept is None else kept.conversation()
        return next((item for item in items if item.get("id") == item_id), None)

    def forget(self, caller: str, response_id: str) -> bool:
        """Returns whether there was such a response."""
        is_kept = self.find(caller, response_id) is not None
        if is_kept:
            self._drop(caller, response_id)
        return is_kept

    def _expire(self) -> None:
        oldest_s = self._now_s() - self.keep_s
        while self._kept:
            (caller, response_id), kept = next(iter(self._kept.items()))
            if kept.kept_s > oldest_s:
                return
            self._drop(caller, response_id)

    def _drop(self, caller: str, response_id: str) -> None:
        self._shares.give_back(caller, self._kept.pop((caller, response_id)).size)
        del self._own[caller][response_id]
        if not self._own[caller]:
            del self._own[caller]
