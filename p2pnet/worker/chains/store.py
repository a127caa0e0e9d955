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
    """A sequence at the stages. `ids` are all that were computed, `filled` how many of them each stage of the chain
    has, as far as is known: rather too few than too many. `fed` is the same for stages that stand by."""

    number: int
    ids: list[int] = field(default_factory=list)
    filled: dict[object, int] = field(default_factory=dict)
    fed: dict[object, int] = field(default_factory=dict)
    feeding: dict[object, int] = field(default_factory=dict)
    """How many of them each stage that stands by will have when what is on its way has been computed."""
    is_closed: bool = False

    def filled_at(self, stage: object) -> int:
        return self.filled.get(stage, self.fed.get(stage, 0))

    def filled_everywhere(self, stages: Sequence[object]) -> int:
        return min(map(self.filled_at, stages))

    def lower(self, stages: Sequence[object], position: int) -> None:
        """What these stages have from this position on is about to be computed again, or is lost."""
        self.filled.update({stage: min(position, self.filled_at(stage)) for stage in stages})

    def rewind(self, position: int) -> None:
        """There will be other ids from this position on: who stands by has those before it."""
        for after in (self.fed, self.feeding):
            after.update({stage: min(position, filled) for stage, filled in after.items()})

    def fill(self, stages: Sequence[object], filled: int) -> None:
        """These stages have so many of the ids now."""
        self.filled.update(dict.fromkeys(stages, filled))

    def note(self, stages: Sequence[object], start: int, ids: Sequence[int]) -> None:
        """These ids have been computed from position `start` on; what came after it is forgotten."""
        self.ids[start:] = ids
        self.fill(stages, len(self.ids))

    def feed(self, stage: object, filled: int) -> None:
        """So many of the ids are on their way to a stage that stands by."""
        self.feeding[stage] = filled

    def settle(self, stage: object, is_there: bool) -> None:
        """What was on its way has been computed there, or has not."""
        filled = self.feeding.pop(stage, 0)
        if is_there:
            self.fed[stage] = filled


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
        remote.is_closed = True
        if remote.filled:
            self._forget.append(remote.number)
        super().close(kv)

    def copy(self, source: Room, target: Room, tokens: int) -> bool:
        """The stages copy with the next row, where they have the source; else it is computed when it is used."""
        assert isinstance(source, Kv) and isinstance(target, Kv)
        given, taken = remote_of(source), remote_of(target)
        taken.ids = given.ids[:tokens]
        having = [stage for stage, filled in given.filled.items() if filled >= tokens]
        if having:
            self._copies.append(Copy(given.number, taken.number, tokens))
            taken.fill(having, tokens)
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
