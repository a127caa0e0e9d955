"""Workers that are announced and that nobody is, by the hundred, beside two that serve."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from bench.harness.attacks import free_identities
from bench.harness.siege import Besieged, assert_held, siege
from gateway.routing.recent_choices import STRANGERS_TURN
from tests.depth import scaled

SECONDS = scaled(ci=6.0, deep=40.0)
PACE_PER_S = 15.0
COMPUTING = ("--delay-ms", "30")
"""A token of the honest ones takes as long as in a small model, so that several requests are under way at a time, and
not the same worker is the best one each time."""
IDENTITIES = {"silent": scaled(ci=20, deep=200), "refusing": scaled(ci=40, deep=2000), "stalling": 20}


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=2, worker_arguments=COMPUTING) as made:
        yield made


@pytest.mark.parametrize("way", free_identities.WAYS)
async def test_workers_that_nobody_is_take_no_requests(besieged: Besieged, way: str) -> None:
    """Given workers that serve, when records of many others lead to a socket that says nothing, to a closed port, or to
    peers that answer probes and no request, then honest requests are answered as before: none was sent to those who
    never answered, and of ten no more than one to those who answered probes alone."""
    attack = partial(free_identities.attack, identities=IDENTITIES[way], way=way)
    assert_held(await besieged.withstand(attack, SECONDS, PACE_PER_S))
    chosen = await _chosen(besieged)
    serving = {worker.peer_id for worker in besieged.target.workers}
    elsewhere = [peer_id for peer_id in chosen if peer_id not in serving]
    assert len(elsewhere) <= (len(chosen) / STRANGERS_TURN if way == "stalling" else 0)


async def _chosen(besieged: Besieged) -> list[str]:
    """To whom the gateway has sent its last requests."""
    async with httpx.AsyncClient() as http:
        choices = (await http.get(f"{besieged.target.url}/p2pnet/v1/choices", params={"limit": 60})).json()
    return [choice["worker"] for choice in choices["choices"]]
