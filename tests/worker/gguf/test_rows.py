"""Which tokens are computed together: those of prompts by one kind of kernel, those of answers by another."""

from __future__ import annotations

import numpy as np
import pytest

from p2pnet.worker.gguf.context import Rows
from p2pnet.worker.gguf.rows import ACCELERATOR_LIMITS, CPU_LIMITS, Kind, Piece, RowLimits, calls, measured


def prompt(part: int, count: int, logits: int = 0) -> Piece:
    return Piece(part, Kind.PROMPT, Rows.of(range(count), 0, part, logits))


def long_prompt(part: int, count: int) -> Piece:
    return Piece(part, Kind.LONG_PROMPT, Rows.of(range(count), 0, part))


def again(part: int, count: int) -> Piece:
    return Piece(part, Kind.AGAIN, Rows.of(range(count), 100, part, 1))


def going_on(part: int) -> Piece:
    return Piece(part, Kind.NEXT, Rows.of([5], 200, part, 1))


@pytest.mark.parametrize(
    ("pieces", "limits", "sizes", "padding"),
    [
        ([prompt(0, 5)], CPU_LIMITS, [5], [3]),
        ([prompt(0, 8)], CPU_LIMITS, [8], [0]),
        ([prompt(0, 56)], CPU_LIMITS, [56], [0]),
        ([prompt(0, 57)], CPU_LIMITS, [28, 29], [0, 0]),
        ([long_prompt(0, 512)], CPU_LIMITS, [128] * 4, [0] * 4),
        ([long_prompt(0, 129)], CPU_LIMITS, [64, 65], [0, 0]),
        ([long_prompt(0, 3)], CPU_LIMITS, [3], [61]),
        ([prompt(0, 20), long_prompt(1, 100)], CPU_LIMITS, [100, 20], [0, 0]),
        ([prompt(0, 3), prompt(1, 4)], CPU_LIMITS, [7], [1]),
        ([again(0, 20)], CPU_LIMITS, [6, 7, 7], [0] * 3),
        ([going_on(0)], CPU_LIMITS, [1], [0]),
        ([going_on(number) for number in range(7)], CPU_LIMITS, [7], [0]),
        ([going_on(number) for number in range(40)], CPU_LIMITS, [40], [0]),
        ([going_on(number) for number in range(3)], measured(CPU_LIMITS, 1.0, 2.5), [1, 1, 1], [0] * 3),
        ([going_on(number) for number in range(3)], measured(CPU_LIMITS, 1.0, 1.5), [3], [0]),
        ([going_on(number) for number in range(8)], measured(CPU_LIMITS, 1.0, 2.5), [8], [0]),
        ([going_on(0), prompt(1, 20), again(2, 5), going_on(3)], CPU_LIMITS, [20, 5, 2], [0] * 3),
        ([prompt(0, 3)], ACCELERATOR_LIMITS, [3], [0]),
        ([again(0, 100), prompt(1, 600)], ACCELERATOR_LIMITS, [300, 300, 100], [0] * 3),
    ],
)
def test_how_large_the_calls_are(pieces: list[Piece], limits: RowLimits, sizes: list[int], padding: list[int]) -> None:
    found = list(calls(pieces, limits))
    assert [len(call.rows) for call in found] == sizes
    assert [call.padding for call in found] == padding
    assert all(len(call.rows) + call.padding <= limits.max_rows for call in found)


@pytest.mark.parametrize(
    ("tokens", "kind"),
    [(1, Kind.AGAIN), (7, Kind.AGAIN), (8, Kind.PROMPT), (255, Kind.PROMPT), (256, Kind.LONG_PROMPT)],
)
def test_what_kind_a_prompt_is(tokens: int, kind: Kind) -> None:
    assert CPU_LIMITS.kind_of_prompt(tokens) is kind


def test_every_row_is_computed_once_and_comes_back_to_its_part() -> None:
    pieces = [going_on(0), prompt(1, 70, logits=70), again(2, 9), prompt(3, 4, logits=1), going_on(4)]
    found = list(calls(pieces, CPU_LIMITS))
    ids = np.concatenate([call.rows.ids for call in found])
    assert sorted(ids.tolist()) == sorted(token for piece in pieces for token in piece.rows.ids.tolist())
    for part in range(5):
        positions = [
            position
            for call in found
            for position, sequence in zip(call.rows.positions.tolist(), call.rows.sequences.tolist(), strict=True)
            if sequence == part
        ]
        assert positions == sorted(positions)
    assert [owner for call in found for owner in call.parts] == [*[1] * 70, 3, 2, 0, 4]
    assert all(len(call.parts) == call.rows.wants_logits.sum() for call in found)
