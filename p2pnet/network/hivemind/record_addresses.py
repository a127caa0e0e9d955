"""Keeps up to date which of this peer's addresses it tells others, in its records and as a node of the DHT.

Owns how often names in them are looked up. Knows nothing of records.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from p2pnet.network.dial_addresses import Scope, worth_recording
from p2pnet.network.hivemind.names import resolved

NAMES_S = 60.0
"""How long what a name stands for is believed: a router at home that gets another address is found within this time."""

Visible = Callable[[], Awaitable[tuple[str, ...]]]
"""The full multiaddrs at which p2pd believes that it can be reached."""

Resolve = Callable[[Sequence[str]], Awaitable[tuple[str, ...]]]


class RecordAddresses:
    """`last` are those of the last look."""

    def __init__(
        self,
        visible: Visible,
        scope: Scope,
        resolve: Resolve = resolved,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._visible = visible
        self._scope = scope
        self._resolve = resolve
        self._now_s = now_s
        self._seen: tuple[str, ...] | None = None
        self._seen_s = 0.0
        self.last: tuple[str, ...] = ()

    async def look(self) -> tuple[str, ...]:
        """Those of now."""
        visible = await self._visible()
        if visible != self._seen or self._now_s() - self._seen_s >= NAMES_S:
            self.last = worth_recording(await self._resolve(visible), self._scope)
            self._seen, self._seen_s = visible, self._now_s()
        return self.last
