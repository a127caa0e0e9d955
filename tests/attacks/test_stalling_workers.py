"""Workers that are there, keep to the form, and let requests wait: for a first token, a next one, or each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.harness.siege import assert_held
from tests.attacks.turncoats import Betrayed, betrayed
from tests.depth import scaled

EACH = scaled(ci=2, deep=5)
WAYS = ("accepting", "stuck", "dripping")
SECONDS = scaled(ci=8.0, deep=60.0)
PACE_PER_S = 10.0


@pytest.fixture(scope="module")
def swarm() -> Iterator[Betrayed]:
    with betrayed(WAYS * EACH) as made:
        yield made


async def test_workers_that_stall_cost_few_requests(swarm: Betrayed) -> None:
    """Given two honest workers and six that have served as well as these, when all six stall at once and go on
    answering probes, then requests go on at the honest ones, from where they were."""
    report = await swarm.besieged.withstand(swarm.attack, SECONDS, PACE_PER_S)
    assert swarm.mistreated >= len(WAYS)
    assert_held(report)
