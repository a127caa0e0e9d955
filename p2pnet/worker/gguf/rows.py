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
from enum import Enum

from p2pnet.worker.gguf.context import Rows


class Kind(Enum):
    """What rows are, in the order in which a step computes them: each part's own are in order then."""

    LONG_PROMPT = "of a long prompt"
    PROMPT = "of another prompt"
    AGAIN = "of an answer that is taken up again, or of a prompt of few tokens"
    NEXT = "an answer's next token"


@dataclass(frozen=True)
class RowLimits:
    """How many rows are computed together.

    `prompt` and `long_prompt`, of prompts from `long_tokens` on, are the least and the most. `again` is the most of
    answers that are taken up again. Of answers that go on, up to `again`, it is `few`; more are computed with the
    prompts' kernels, which are faster for them, `many` at a time.
    """

    prompt: tuple[int, int]
    long_prompt: tuple[int, int]
    long_tokens: int
    again: int
    few: int
    many: int

    @property
    def max_rows(self) -> int:
        return max(*self.prompt, *self.long_prompt, self.again, self.few, self.many)

    def kind_of_prompt(self, tokens: int) -> Kind:
        """By the whole prompt's length. One that is shorter than the least that prompts are computed with is computed
        as an answer, as llama.cpp does by itself."""
        if tokens < self.prompt[0]:
            return Kind.AGAIN
        return Kind.LONG_PROMPT if tokens >= self.long_tokens else Kind.PROMPT

    def bounds(self, kind: Kind, rows: int) -> tuple[int, int]:
        """The least and the most rows of a call, where there are so many of this kind."""
        match kind:
            case Kind.LONG_PROMPT:
                return self.long_prompt
            case Kind.PROMPT:
                return self.prompt
            case Kind.AGAIN:
                return 1, self.again
            case Kind.NEXT:
                return 1, self.few if rows <= self.again else self.many


CPU_LIMITS = RowLimits(prompt=(8, 56), long_prompt=(64, 128), long_tokens=256, again=7, few=7, many=63)
"""ggml's kernels for few rows end at seven, and its attention changes at 64, to one that is faster with many rows. The
last rows of a long prompt are filled up to 64 with rows of nobody's, which a short one would feel."""

ACCELERATOR_LIMITS = RowLimits((1, 512), (1, 512), long_tokens=256, again=512, few=512, many=512)
"""An accelerator is slow with few rows, and its kernels change at other numbers on each device."""


def measured(limits: RowLimits, one_row_s: float, two_rows_s: float) -> RowLimits:
    """The limits for a processor and model on which one and two answers' next tokens take so long. Some are faster with
    one at a time, where the layer that makes the logits is most of the model."""
    return replace(limits, few=1) if two_rows_s > 2 * one_row_s else limits


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of one part of a step: `part` is its number there."""

    part: int
    kind: Kind
    rows: Rows


@dataclass(frozen=True, eq=False)
class Call:
    """What is computed at once, and for each row that wants logits the number of its part. `padding` is how many rows
    of nobody's are added."""

    rows: Rows
    parts: tuple[int, ...]
    padding: int = 0


def calls(pieces: Sequence[Piece], limits: RowLimits) -> Iterator[Call]:
    """Everything that a step computes: rows of a kind in as few calls as possible, of about equal size."""
    for kind in Kind:
        chosen = [piece for piece in pieces if piece.kind is kind]
        if not chosen:
            continue
        rows = Rows.joined(piece.rows for piece in chosen)
        owners = [piece.part for piece in chosen for _ in range(len(piece.rows))]
        least, most = limits.bounds(kind, len(rows))
        count = -(-len(rows) // most)
        for index in range(count):
            cut = slice(len(rows) * index // count, len(rows) * (index + 1) // count)
            wanted = zip(owners[cut], rows.wants_logits[cut].tolist(), strict=True)
            yield Call(rows[cut], tuple(owner for owner, wants in wanted if wants), max(0, least - len(rows[cut])))
