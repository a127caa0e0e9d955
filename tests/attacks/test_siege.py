"""The honest side of an attack sees what an attack does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.harness.siege import Besieged, Report, assert_held, siege
from bench.harness.target import Target

HELD = Report(
    asked=10, answered=8, growth_mb={"gateway": 100.0}, dead=(), recovered_s=10.0, problems=("status 503",), logs=""
)


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=2) as made:
        yield made


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (replace(HELD, answered=7), "7 of 10 honest requests were answered (status 503)"),
        (replace(HELD, growth_mb={"gateway": 250.0, "worker 1": 9.0}), "gateway grew by 250 MB"),
        (replace(HELD, dead=("worker 1",)), "worker 1 died, or was started again"),
        (replace(HELD, recovered_s=None), "not as before 10 s after the attack (None)"),
    ],
)
def test_what_was_missed_is_said(report: Report, said: str) -> None:
    assert_held(HELD)
    with pytest.raises(AssertionError) as raised:
        assert_held(report)
    assert str(raised.value) == said


async def test_a_worker_that_dies_is_missed(besieged: Besieged) -> None:
    """Given two workers, when one is killed, then it is named, and so is its p2pd; the other serves the requests."""

    async def attack(target: Target) -> None:
        besieged.processes["worker 1"].kill_with_daemon()

    report = await besieged.withstand(attack, seconds=1)
    assert report.faults() == [f"{name} died, or was started again" for name in ("worker 1", "the p2pd of worker 1")]
