"""Parts what a step computes into rows: small enough that the stages of a chain work side by side on a long prompt.

Pure: knows nothing of tensors and streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2pnet.stage_messages import MAX_STAGE_PIECES, Piece

ROW_TOKENS = 128
"""Of one row: as many as an engine computes of prompts beside running answers. With more, the first stage is done with
all of a prompt before the second begins."""


@dataclass(frozen=True)
class Stint:
    """What a step computes of one sequence: `ids` from position `start` on. The logits of the last `wanted` of them are
    needed. `part` is whose that is."""

    part: int
    number: int
    ids: Sequence[int]
    start: int
    wanted: int = 0


@dataclass(frozen=True)
class RowPlan:
    """One row: its pieces, their ids one after the other, and whose each piece is."""

    pieces: tuple[Piece, ...]
    ids: tuple[int, ...]
    parts: tuple[int, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(at for piece in self.pieces for at in range(piece.start, piece.start + piece.count))


def rows_of(stints: Sequence[Stint], max_tokens: int = ROW_TOKENS) -> Iterator[RowPlan]:
    """All tokens of all stints, in rows of at most so many. A row has at most one piece of each sequence, and those of
    one sequence come in order. Stints of one sequence follow one another."""
    left = deque((stint, 0) for stint in stints)
    while left:
        taken: list[tuple[Stint, int, int]] = []
        later: list[tuple[Stint, int]] = []
        room, seen = max_tokens, set[int]()
        for stint, begin in left:
            count = min(room, len(stint.ids) - begin)
            if stint.number in seen or not count or len(taken) == MAX_STAGE_PIECES:
                later.append((stint, begin))
                seen.add(stint.number)
                continue
            seen.add(stint.number)
            taken.append((stint, begin, begin + count))
            room -= count
            if begin + count < len(stint.ids):
                later.append((stint, begin + count))
        left = deque(later)
        yield RowPlan(
            tuple(_piece(*each) for each in taken),
            tuple(token_id for stint, begin, end in taken for token_id in stint.ids[begin:end]),
            tuple(stint.part for stint, _, _ in taken),
        )


def _piece(stint: Stint, begin: int, end: int) -> Piece:
    wanted = max(0, end - max(begin, len(stint.ids) - stint.wanted))
    return Piece(stint.number, stint.start + begin, end - begin, wanted)
