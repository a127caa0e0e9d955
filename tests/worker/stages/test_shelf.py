"""Which sequences a stage keeps: positions never skip, and each driver has its share whoever floods the memory."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from p2pnet.stage_messages import BAD_ROW, BUSY, SEQUENCE_GONE, Copy, Piece, StageRefusal
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.stages.shelf import MAX_STAGE_SEQUENCES, Drawer, Shelf
from tests.depth import scaled

BLOCK = 64


def shelf(blocks: int, max_length: int = 1 << 12) -> Shelf:
    return Shelf(KvStore(blocks * BLOCK), max_length)


def compute(shelf: Shelf, drawer: Drawer, *pieces: tuple[int, int, int]) -> None:
    placed = shelf.place(drawer, [Piece(*piece) for piece in pieces])
    for each in placed:
        numbers = torch.full((1, each.piece.count, 1), float(each.piece.sequence))
        each.held.kv.write(0, each.piece.start, numbers, numbers)
    shelf.settle(drawer, placed, is_computed=True)


def code_of(shelf: Shelf, drawer: Drawer, *pieces: tuple[int, int, int]) -> str:
    with pytest.raises(StageRefusal) as refused:
        shelf.place(drawer, [Piece(*piece) for piece in pieces])
    assert not any(held.is_busy for held in drawer.sequences.values())
    return refused.value.code


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ([(1, 11, 1)], SEQUENCE_GONE),
        ([(2, 1, 1)], SEQUENCE_GONE),
        ([(1, 10, 1), (1, 11, 1)], BAD_ROW),
        ([(1, 0, 200)], BAD_ROW),
        ([(2, 0, 1), (3, 5, 1)], SEQUENCE_GONE),
    ],
)
def test_what_does_not_go_on_from_what_is_there_is_refused(pieces: list[tuple[int, int, int]], code: str) -> None:
    kept = shelf(8, max_length=128)
    drawer = kept.open()
    compute(kept, drawer, (1, 0, 10))
    assert code_of(kept, drawer, *pieces) == code
    compute(kept, drawer, (1, 10, 1))


def test_a_sequence_may_go_back_and_on_from_there() -> None:
    kept = shelf(8)
    drawer = kept.open()
    compute(kept, drawer, (1, 0, 10))
    compute(kept, drawer, (1, 4, 2))
    assert code_of(kept, drawer, (1, 7, 1)) == SEQUENCE_GONE
    compute(kept, drawer, (1, 6, 100))
    assert drawer.sequences[1].filled == 106


def test_a_row_that_failed_leaves_what_came_before_it() -> None:
    kept = shelf(8)
    drawer = kept.open()
    compute(kept, drawer, (1, 0, 10))
    kept.settle(drawer, kept.place(drawer, [Piece(1, 10, 5)]), is_computed=False)
    assert code_of(kept, drawer, (1, 15, 1)) == SEQUENCE_GONE
    compute(kept, drawer, (1, 10, 5))


def test_a_sequence_is_in_one_row_at_a_time() -> None:
    kept = shelf(8)
    drawer = kept.open()
    placed = kept.place(drawer, [Piece(1, 0, 3)])
    with pytest.raises(StageRefusal):
        kept.place(drawer, [Piece(1, 0, 3)])
    kept.forget(drawer, [1])
    kept.settle(drawer, placed, is_computed=True)
    assert drawer.sequences[1].filled == 3


def test_copies_and_what_is_forgotten() -> None:
    kept = shelf(8)
    drawer = kept.open()
    compute(kept, drawer, (1, 0, 10))
    kept.copy(drawer, [Copy(1, 2, 6), Copy(1, 3, 11), Copy(9, 4, 1)])
    assert {number: held.filled for number, held in drawer.sequences.items()} == {1: 10, 2: 6}
    assert drawer.sequences[2].kv.layers[0][0][0, :6].eq(1).all()
    kept.forget(drawer, [1, 7])
    compute(kept, drawer, (2, 6, 1))
    assert code_of(kept, drawer, (1, 10, 1)) == SEQUENCE_GONE


def test_what_has_not_been_used_for_longest_goes_first() -> None:
    kept = shelf(3)
    drawer = kept.open()
    for number in (1, 2, 3):
        compute(kept, drawer, (number, 0, 10))
    compute(kept, drawer, (1, 10, 1))
    compute(kept, drawer, (4, 0, 1))
    assert list(drawer.sequences) == [3, 1, 4]


def test_a_flood_of_one_driver_leaves_another_its_share() -> None:
    kept = shelf(8)
    greedy, modest = kept.open(), kept.open()
    for number in range(100):
        compute(kept, greedy, (number, 0, 1))
    assert greedy.tokens == 8 * BLOCK
    for number in range(4):
        compute(kept, modest, (number, 0, BLOCK))
    assert (greedy.tokens, modest.tokens) == (4 * BLOCK, 4 * BLOCK)
    for number in range(100):
        compute(kept, greedy, (number, 0, 1))
    assert list(modest.sequences) == [0, 1, 2, 3]
    assert code_of(kept, greedy, *((number, 0, BLOCK) for number in range(5))) == BUSY


def test_one_driver_has_only_so_many_sequences() -> None:
    kept = shelf(2 * MAX_STAGE_SEQUENCES)
    drawer = kept.open()
    for number in range(MAX_STAGE_SEQUENCES + 3):
        compute(kept, drawer, (number, 0, 1))
    assert next(iter(drawer.sequences)) == 3
    assert len(drawer.sequences) == MAX_STAGE_SEQUENCES


def test_a_driver_that_goes_in_mid_row_leaves_nothing() -> None:
    kept = shelf(8)
    drawer = kept.open()
    compute(kept, drawer, (1, 0, 5))
    placed = kept.place(drawer, [Piece(2, 0, 5)])
    kept.close(drawer)
    assert kept.free_tokens == 7 * BLOCK
    kept.settle(drawer, placed, is_computed=True)
    kept.close(drawer)
    assert kept.free_tokens == 8 * BLOCK


def test_what_is_spare_takes_what_is_free_and_goes_first() -> None:
    kept = shelf(4)
    spare, one = kept.open(), kept.open()
    place_spare(kept, spare, 1, BLOCK)
    place_spare(kept, spare, 2, BLOCK)
    assert kept.share_tokens == 4 * BLOCK  # whoever is spare has no share
    compute(kept, one, (1, 0, 2 * BLOCK))
    with pytest.raises(StageRefusal, match="no memory to spare"):
        place_spare(kept, spare, 3, 1)
    assert (list(spare.sequences), list(one.sequences)) == ([1, 2], [1])
    compute(kept, one, (2, 0, 1))
    assert (list(spare.sequences), list(one.sequences)) == ([2], [1, 2])


def test_what_was_spare_and_is_needed_has_its_share() -> None:
    kept = shelf(4)
    spare, other = kept.open(), kept.open()
    place_spare(kept, spare, 1, BLOCK)
    compute(kept, other, (1, 0, BLOCK), (2, 0, BLOCK), (3, 0, BLOCK))
    compute(kept, spare, (1, BLOCK, BLOCK))
    assert (spare.is_spare, spare.tokens, list(other.sequences)) == (False, 2 * BLOCK, [2, 3])


def place_spare(shelf: Shelf, drawer: Drawer, number: int, tokens: int) -> None:
    shelf.settle(drawer, shelf.place(drawer, [Piece(number, 0, tokens)], is_spare=True), is_computed=True)


def test_whatever_drivers_do_the_memory_is_counted_right() -> None:
    for seed in range(scaled(20, 300)):
        rng = random.Random(seed)
        blocks = rng.randint(1, 10)
        kept = shelf(blocks, max_length=300)
        drawers = [kept.open() for _ in range(rng.randint(1, 3))]
        for _ in range(60):
            do_something(rng, kept, rng.choice(drawers))
            used = sum(drawer.tokens for drawer in drawers)
            assert used + kept.free_tokens == blocks * BLOCK
        for drawer in drawers:
            kept.close(drawer)
        assert kept.free_tokens == blocks * BLOCK


def do_something(rng: random.Random, kept: Shelf, drawer: Drawer) -> None:
    numbers: Sequence[int] = rng.sample(range(6), rng.randint(1, 4))
    match rng.randrange(4):
        case 0:
            kept.forget(drawer, numbers)
        case 1:
            kept.copy(drawer, [Copy(number, 7, rng.randint(1, 30)) for number in numbers])
        case _:
            try:
                compute(kept, drawer, *((n, rng.choice((0, 0, 5, 50)), rng.randint(1, 90)) for n in numbers))
            except StageRefusal:
                assert not any(held.is_busy for held in drawer.sequences.values())
