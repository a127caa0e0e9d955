"""One worker that answers faster than any other, with garbage, beside three that compute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.harness.attacks import fast_garbage
from bench.harness.siege import MAX_GROWTH_MB, MAX_RECOVERY_S, Besieged, siege
from tests.depth import scaled

SECONDS = scaled(ci=8.0, deep=60.0)
PACE_PER_S = 15.0
COMPUTING = ("--delay-ms", "30")
"""A token of the honest ones takes as long as in a small model, so that several requests are under way at a time, and
not the same worker is the best one each time."""
MIN_RIGHT = 0.6
"""A third of the requests may go to any one worker, and a few more while it is seen for the first time."""


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=3, worker_arguments=COMPUTING) as made:
        yield made


async def test_who_is_faster_than_all_others_has_a_third_of_the_requests_and_no_more(besieged: Besieged) -> None:
    """Given three workers that compute, when one that does not claims a thousand places and answers at once, then two
    thirds of the answers are right; and all of them once it has gone."""
    report = await besieged.withstand(fast_garbage.attack, SECONDS, PACE_PER_S)
    assert report.share >= MIN_RIGHT, report.problems
    assert set(report.problems) <= {"a wrong answer"}
    assert "a wrong answer" in report.problems, "it was never asked: this shows nothing"
    assert not report.dead
    assert max(report.growth_mb.values()) <= MAX_GROWTH_MB
    assert report.recovered_s is not None and report.recovered_s <= MAX_RECOVERY_S
