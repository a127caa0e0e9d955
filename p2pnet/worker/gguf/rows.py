"""Decides which tokens of a step llama.cpp computes together. Pure.

On a processor llama.cpp computes few rows, some rows and many rows with other kernels, which round differently; and it
keeps what a layer gives in eight bits for the next product, so that the last digit becomes a difference of a tenth in
the logits. Within one kind of kernel a row comes out the same, bit for bit, whatever is beside it. So a prompt's tokens
are always computed with the one kind, and an answer's with the other, also where the answer is taken up again.
`bench/gguf.py` measures what that costs, and what is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from p2pnet.worker.gguf.context import Rows


@dataclass(frozen=True)
class RowLimits:
    """How many rows are computed together: `prompt` is the least and the most of prompts, `again` the most of answers
    that are taken up again. Of answers that go on, up to `again`, it is `few`; more are computed with the prompts'
    kernels, which are faster for them, `many` at a time."""

    prompt: tuple[int, int]
    again: int
    few: int
    many: int

    @property
    def max_rows(self) -> int:
        return max(*self.prompt, self.again, self.few, self.many)


CPU_LIMITS = RowLimits(prompt=(8, 56), again=7, few=7, many=63)
"""ggml's kernels for few rows end at seven, and its attention changes at 64; 56 is seven whole tiles of a product."""

ACCELERATOR_LIMITS = RowLimits(prompt=(1, 512), again=512, few=512, many=512)
"""An accelerator is slow with few rows, and its kernels change at other numbers on each device."""


def measured(limits: RowLimits, one_row_s: float, two_rows_s: float) -> RowLimits:
    """The limits for a processor and model on which one and two answers' next tokens take so long. Some are faster with
    one at a time, where the layer that makes the logits is most of the model."""
    return replace(limits, few=1) if two_rows_s > 2 * one_row_s else limits


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of one part of a step: `part` is its number there. `is_next` says that it is an answer's next token."""

    part: int
    rows: Rows
    is_prompt: bool
    is_next: bool = False


@dataclass(frozen=True, eq=False)
class Call:
    """What is computed at once, and for each row that wants logits the number of its part. `padding` is how many rows
    of nobody's are added."""

    rows: Rows
    parts: tuple[int, ...]
    padding: int = 0


def calls(pieces: Sequence[Piece], limits: RowLimits) -> Iterator[Call]:
    """Everything that a step computes, prompts first, so that each part's rows are in order."""
    prompts = [piece for piece in pieces if piece.is_prompt]
    again = [piece for piece in pieces if not piece.is_prompt and not piece.is_next]
    going_on = [piece for piece in pieces if piece.is_next]
    least, most = limits.prompt
    for call in _cut(prompts, most):
        yield Call(call.rows, call.parts, max(0, least - len(call.rows)))
    yield from _cut(again, limits.again)
    yield from _cut(going_on, limits.few if len(going_on) <= limits.again else limits.many)


def _cut(pieces: Sequence[Piece], most: int) -> Iterator[Call]:
    """All rows in as few calls as possible, of about equal size."""
    if not pieces:
        return
    rows = Rows.joined(piece.rows for piece in pieces)
    owners = [piece.part for piece in pieces for _ in range(len(piece.rows))]
    count = -(-len(rows) // most)
    for index in range(count):
        cut = slice(len(rows) * index // count, len(rows) * (index + 1) // count)
        part = rows[cut]
        wanted = zip(owners[cut], part.wants_logits.tolist(), strict=True)
        yield Call(part, tuple(owner for owner, wants in wanted if wants))
