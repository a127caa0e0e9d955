"""Keeps an engine's accounts of the keys and values that lie at the stages of a chain.

A sequence is known by its number there. Its token ids are kept here, so that it can be computed again wherever it is
missing. Knows nothing of streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p2pnet.stage_messages import MAX_STAGE_NOTES, Copy
from p2pnet.worker.engine.kv_store import Kv, KvStore
from p2pnet.worker.engine.memory import Room


@dataclass(eq=False)
class Remote:
    """A sequence at the stages. `ids` are all that were computed, `filled` how many of them `chain` has."""

    number: int
    ids: list[int] = field(default_factory=list)
    chain: object | None = None
    filled: int = 0

    def filled_at(self, chain: object) -> int:
        return self.filled if self.chain is chain else 0

    def note(self, chain: object, start: int, ids: Sequence[int]) -> None:
        """These ids have been computed from position `start` on; what came after it is forgotten."""
        self.ids[start:] = ids
        self.chain, self.filled = chain, len(self.ids)


@dataclass(frozen=True)
class Notes:
    """What the next row tells the stages beside what is computed: what to forget, and then what to copy."""

    forget: tuple[int, ...] = ()
    copies: tuple[Copy, ...] = ()


class ChainStore(KvStore):
    """The memory of a chain: at most `total_tokens`, and what the stages have, as `kv_tokens` says; 0 is not known."""

    def __init__(self, total_tokens: int, kv_tokens: Callable[[], int]) -> None:
        super().__init__(total_tokens)
        self._kv_tokens = kv_tokens
        self._numbers = 0
        self._forget: list[int] = []
        self._copies: list[Copy] = []

    @property
    def free_tokens(self) -> int:
        lacking = self.total_tokens - (self._kv_tokens() or self.total_tokens)
        return super().free_tokens - max(0, lacking)

    def open(self, tokens: int) -> Kv | None:
        kv = super().open(tokens)
        if kv is not None:
            self._numbers += 1
            kv.cache = Remote(self._numbers)
        return kv

    def close(self, kv: Room) -> None:
        assert isinstance(kv, Kv)
        remote = remote_of(kv)
        if remote.chain is not None:
            self._forget.append(remote.number)
        super().close(kv)

    def copy(self, source: Room, target: Room, tokens: int) -> bool:
        """The stages copy with the next row, where they have the source; else it is computed when it is used."""
        assert isinstance(source, Kv) and isinstance(target, Kv)
        given, taken = remote_of(source), remote_of(target)
        taken.ids = given.ids[:tokens]
        if given.chain is not None and given.filled >= tokens:
            self._copies.append(Copy(given.number, taken.number, tokens))
            taken.chain, taken.filled = given.chain, tokens
        return True

    def take_notes(self) -> Notes:
        """What is to be told with the next row. What is still to be copied is forgotten with the one after it."""
        copies = self._copies[:MAX_STAGE_NOTES]
        sources = {copy.source for copy in self._copies}
        forget = [number for number in self._forget if number not in sources][:MAX_STAGE_NOTES]
        self._copies = self._copies[len(copies) :]
        gone = set(forget)
        self._forget = [number for number in self._forget if number not in gone]
        return Notes(tuple(forget), tuple(copies))

    def drop_notes(self) -> None:
        """The chain has changed: the new one knows none of these."""
        self._forget.clear()
        self._copies.clear()


def remote_of(kv: Kv) -> Remote:
    assert isinstance(kv.cache, Remote)
    return kv.cache
