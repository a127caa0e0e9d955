"""What a stage that stands by is fed next: in short rows, and what lacks least first."""

from __future__ import annotations

import pytest

from p2pnet.stage_messages import Piece
from p2pnet.worker.chains.feeding import FEED_LAG, FEED_TOKENS, Lag, next_feed

TABLE: dict[str, tuple[list[Lag], tuple[Piece, ...]]] = {
    "nothing": ([], ()),
    "all is there": ([Lag(1, 50, 50)], ()),
    "more is there than might be": ([Lag(1, 50, 40)], ()),
    "too little to be worth a row": ([Lag(1, 50, 49 + FEED_LAG)], ()),
    "enough": ([Lag(1, 50, 50 + FEED_LAG)], (Piece(1, 50, FEED_LAG),)),
    "a long prompt": ([Lag(1, 0, 2000)], (Piece(1, 0, FEED_TOKENS),)),
    "the next part of it": ([Lag(1, FEED_TOKENS, 2000)], (Piece(1, FEED_TOKENS, FEED_TOKENS),)),
    "an answer before a prompt": (
        [Lag(1, 0, 2000), Lag(2, 100, 120)],
        (Piece(2, 100, 20), Piece(1, 0, FEED_TOKENS - 20)),
    ),
    "no more than a row holds": (
        [Lag(number, 0, FEED_TOKENS) for number in range(3)],
        (Piece(0, 0, FEED_TOKENS),),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_is_fed_next(name: str) -> None:
    lags, pieces = TABLE[name]
    assert next_feed(lags) == pieces
