"""For how many guesses there is room: none but after the one token that an answer waits for, and in its memory only."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from p2pnet.worker.engine.scheduler import Job, Work
from p2pnet.worker.engine.speculation import room_for_drafts


@dataclass
class Paper:
    """A room for so many tokens."""

    capacity: int


@pytest.mark.parametrize(
    ("ids", "computed", "count", "max_length", "capacity", "is_background", "room"),
    [
        (10, 9, 1, 100, 64, False, 54),
        (10, 9, 1, 20, 64, False, 9),  # nine that may still be sampled, and the one after them
        (10, 9, 1, 11, 64, False, 0),  # the last token of the answer
        (64, 63, 1, 100, 64, False, 0),  # its memory is full: it grows with the next token
        (10, 9, 1, 100, None, False, 0),
        (10, 0, 10, 100, 64, False, 0),  # a prompt
        (10, 8, 1, 100, 64, False, 0),  # a part of one
        (10, 9, 1, 100, 64, True, 0),  # an answer that is scored
    ],
)
def test_there_is_room_for_what_may_still_come(
    ids: int, computed: int, count: int, max_length: int, capacity: int | None, is_background: bool, room: int
) -> None:
    job = Job(list(range(ids)), max_length, is_background=is_background, computed=computed)
    job.kv = None if capacity is None else Paper(capacity)
    assert room_for_drafts(Work(job, count)) == room
