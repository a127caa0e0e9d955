"""How a step is parted into rows: nothing is lost, nothing comes twice, and each sequence comes in order."""

from __future__ import annotations

import random

from p2pnet.stage_messages import MAX_STAGE_PIECES, Piece
from p2pnet.worker.chains.rows import RowPlan, Stint, rows_of


def test_what_fits_is_one_row() -> None:
    stints = [Stint(0, 7, [1, 2, 3], 4, 1), Stint(1, 8, [9], 0, 1)]
    row = RowPlan((Piece(7, 4, 3, 1), Piece(8, 0, 1, 1)), (1, 2, 3, 9), (0, 1))
    assert list(rows_of(stints, 4)) == [row]
    assert row.positions == (4, 5, 6, 0)


def test_a_long_prompt_is_parted_and_what_is_wanted_stays_at_its_end() -> None:
    rows = list(rows_of([Stint(0, 7, list(range(10)), 0, 5)], 4))
    assert [row.pieces for row in rows] == [(Piece(7, 0, 4, 0),), (Piece(7, 4, 4, 3),), (Piece(7, 8, 2, 2),)]


def test_what_is_caught_up_with_comes_before_what_is_new() -> None:
    """Never in one row: a stage would compute the second before it knows the first."""
    rows = list(rows_of([Stint(0, 7, [1, 2], 0), Stint(0, 7, [3], 2, 1), Stint(1, 8, [4], 0, 1)], 100))
    assert [row.pieces for row in rows] == [(Piece(7, 0, 2), Piece(8, 0, 1, 1)), (Piece(7, 2, 1, 1),)]


def test_a_row_has_only_so_many_pieces() -> None:
    rows = list(rows_of([Stint(n, n, [1], 0, 1) for n in range(MAX_STAGE_PIECES + 1)], 1000))
    assert [len(row.pieces) for row in rows] == [MAX_STAGE_PIECES, 1]


def test_whatever_a_step_is_its_rows_are_all_of_it() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        stints: list[Stint] = []
        for number in range(rng.randint(1, 8)):
            at = rng.randint(0, 5)
            for _ in range(rng.randint(1, 3)):
                ids = [rng.randrange(100) for _ in range(rng.randint(1, 30))]
                stints.append(Stint(number, number, ids, at, rng.randint(0, len(ids))))
                at += len(ids)
        limit = rng.randint(1, 40)
        computed: dict[int, list[tuple[int, int]]] = {}
        wanted: dict[int, list[int]] = {}
        for row in rows_of(stints, limit):
            assert 0 < len(row.ids) == len(row.positions) <= limit
            assert len({piece.sequence for piece in row.pieces}) == len(row.pieces)
            ids_left = list(zip(row.positions, row.ids, strict=True))
            for piece in row.pieces:
                own, ids_left = ids_left[: piece.count], ids_left[piece.count :]
                computed.setdefault(piece.sequence, []).extend(own)
                wanted.setdefault(piece.sequence, []).extend(at for at, _ in own[piece.count - piece.wanted :])
        for number in computed:
            own_stints = [stint for stint in stints if stint.number == number]
            assert computed[number] == [
                (stint.start + index, token_id) for stint in own_stints for index, token_id in enumerate(stint.ids)
            ]
            assert wanted[number] == [
                stint.start + index
                for stint in own_stints
                for index in range(len(stint.ids) - stint.wanted, len(stint.ids))
            ]
