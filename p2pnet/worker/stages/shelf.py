"""Keeps the keys and values of all drivers' sequences at one stage, and says which of them go when there is no room.

Nothing is lost with them: a driver has its token ids, and has them computed again. So whoever is below its share of the
memory always gets it, at the cost of those above theirs. What is spare goes first. Knows nothing of streams.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from p2pnet.stage_messages import BAD_ROW, BUSY, SEQUENCE_GONE, Copy, Piece, StageRefusal
from p2pnet.worker.engine.kv_store import Kv, KvStore
from p2pnet.worker.engine.memory import whole_blocks

MAX_STAGE_SEQUENCES = 512
"""Of one driver: sixteen times as many as an engine computes at the same time; the rest are prefixes that it keeps."""


@dataclass(eq=False)
class Held:
    """One sequence. `filled` is how many of its tokens have been computed; while `is_busy` more are."""

    kv: Kv
    filled: int = 0
    is_busy: bool = False


@dataclass(eq=False)
class Drawer:
    """What one driver has here, least recently used first. `is_keeping` says that what its layers give is kept;
    `is_spare`, that nothing but spare rows has come of it."""

    is_keeping: bool = True
    sequences: OrderedDict[int, Held] = field(default_factory=OrderedDict)
    is_open: bool = True
    is_spare: bool = False

    @property
    def tokens(self) -> int:
        return sum(held.kv.capacity for held in self.sequences.values())

    def idle(self) -> Iterator[int]:
        return (number for number, held in self.sequences.items() if not held.is_busy)


@dataclass(frozen=True, eq=False)
class Placed:
    """A piece, and where its keys and values go."""

    piece: Piece
    held: Held


class Shelf:
    """All drawers of a stage. `max_length` is how many tokens a sequence may have."""

    def __init__(self, store: KvStore, max_length: int) -> None:
        self._store = store
        self._max_length = max_length
        self._drawers: list[Drawer] = []

    @property
    def free_tokens(self) -> int:
        return self._store.free_tokens

    @property
    def share_tokens(self) -> int:
        """What each driver may have, whoever else wants more."""
        return self._store.total_tokens // max(1, sum(not drawer.is_spare for drawer in self._drawers))

    def open(self, is_keeping: bool = True) -> Drawer:
        drawer = Drawer(is_keeping)
        self._drawers.append(drawer)
        return drawer

    def close(self, drawer: Drawer) -> None:
        """Drop all that a driver has; what is just being computed goes when that is done. Idempotent."""
        drawer.is_open = False
        if drawer in self._drawers:
            self._drawers.remove(drawer)
        for number in list(drawer.idle()):
            self._drop(drawer, number)

    def forget(self, drawer: Drawer, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in drawer.sequences and not drawer.sequences[number].is_busy:
                self._drop(drawer, number)

    def copy(self, drawer: Drawer, copies: Sequence[Copy]) -> None:
        """Copy what is there. A copy that is not made is found missing when it is used, and computed then."""
        for copy in copies:
            source = drawer.sequences.get(copy.source)
            self.forget(drawer, [copy.target])
            if source is None or source.filled < copy.count or copy.target in drawer.sequences:
                continue
            source.is_busy = True
            try:
                target = self._opened(drawer, copy.target, copy.count)
            except StageRefusal:
                continue
            finally:
                source.is_busy = False
            if self._store.copy(source.kv, target.kv, copy.count):
                target.filled = copy.count

    def place(self, drawer: Drawer, pieces: Sequence[Piece], is_spare: bool = False) -> list[Placed]:
        """Make room for a row's tokens; its sequences are busy until `settle`. Raises StageRefusal."""
        drawer.is_spare = is_spare and (drawer.is_spare or not drawer.sequences)
        if len({piece.sequence for piece in pieces}) < len(pieces):
            raise StageRefusal(BAD_ROW, "a sequence twice in one row")
        placed: list[Placed] = []
        try:
            for piece in pieces:
                placed.append(Placed(piece, self._placed(drawer, piece)))
        except StageRefusal:
            self.settle(drawer, placed, is_computed=False)
            raise
        return placed

    def settle(self, drawer: Drawer, placed: Sequence[Placed], is_computed: bool) -> None:
        """A row has been computed, or has not."""
        for each in placed:
            each.held.is_busy = False
            if is_computed:
                each.held.filled = each.piece.start + each.piece.count
            if not drawer.is_open:
                self._drop(drawer, each.piece.sequence)

    def computed(self, drawer: Drawer, pieces: Sequence[Piece]) -> list[Placed]:
        """Where tokens are that have been computed. Raises StageRefusal when what was given for them is not kept."""
        found: list[Placed] = []
        for piece in pieces:
            held, end = drawer.sequences.get(piece.sequence), piece.start + piece.count
            if not drawer.is_keeping or held is None or held.filled < end:
                raise StageRefusal(SEQUENCE_GONE, f"what was given up to position {end} is not here")
            found.append(Placed(piece, held))
        return found

    def _placed(self, drawer: Drawer, piece: Piece) -> Held:
        end = piece.start + piece.count
        if end > self._max_length:
            raise StageRefusal(BAD_ROW, f"position {end}, and this model has {self._max_length}")
        held = drawer.sequences.get(piece.sequence)
        if held is not None and held.is_busy:
            raise StageRefusal(BAD_ROW, "a sequence in two rows at the same time")
        if piece.start > (0 if held is None else held.filled):
            raise StageRefusal(SEQUENCE_GONE, f"what comes before position {piece.start} is not here")
        if held is None:
            held = self._opened(drawer, piece.sequence, end)
        held.is_busy = True
        held.filled = piece.start
        drawer.sequences.move_to_end(piece.sequence)
        if end > held.kv.capacity:
            try:
                self._grow(drawer, held, end)
            except StageRefusal:
                held.is_busy = False
                raise
        return held

    def _opened(self, drawer: Drawer, number: int, tokens: int) -> Held:
        if len(drawer.sequences) >= MAX_STAGE_SEQUENCES:
            self._drop(drawer, _first(drawer))
        self._make_room(drawer, whole_blocks(tokens))
        kv = self._store.open(tokens)
        if kv is None:
            raise StageRefusal(BUSY, "no memory for more tokens")
        held = drawer.sequences[number] = Held(kv)
        return held

    def _grow(self, drawer: Drawer, held: Held, end: int) -> None:
        """By half where there is room for that, so that it is not copied for each block."""
        wanted = min(self._max_length, max(end, held.kv.capacity * 3 // 2))
        if whole_blocks(wanted) - held.kv.capacity <= self._store.free_tokens and self._store.grow(held.kv, wanted):
            return
        self._make_room(drawer, whole_blocks(end) - held.kv.capacity)
        if not self._store.grow(held.kv, end):
            raise StageRefusal(BUSY, "no memory for more tokens")

    def _make_room(self, drawer: Drawer, tokens: int) -> None:
        """Drop what has not been used for longest: what is spare, then of those above their share while this driver is
        below its own, else of its own. For what is spare nothing is dropped."""
        while self._store.free_tokens < tokens:
            if drawer.is_spare:
                raise StageRefusal(BUSY, "no memory to spare")
            spare = next((other for other in self._drawers if other.is_spare and any(other.idle())), None)
            if spare is not None:
                self._drop(spare, _first(spare))
                continue
            share = self.share_tokens
            greedy = [other for other in self._drawers if other.tokens > share and any(other.idle())]
            owner = max(greedy, key=lambda other: other.tokens, default=drawer)
            if drawer.tokens + tokens > share:
                owner = drawer
            self._drop(owner, _first(owner))

    def _drop(self, drawer: Drawer, number: int) -> None:
        self._store.close(drawer.sequences.pop(number).kv)


def _first(drawer: Drawer) -> int:
    """The sequence that has not been used for longest. Raises StageRefusal when all are busy."""
    for number in drawer.idle():
        return number
    raise StageRefusal(BUSY, "this driver has all the memory that there is for it")
