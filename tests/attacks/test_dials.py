"""Records that would make gateways dial somebody who has nothing to do with it, with honest requests beside."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from bench.harness.attacks import named_victim
from bench.harness.attacks.named_victim import Victim
from bench.harness.siege import Besieged, assert_held, siege
from p2pnet.network.dial_budget import FREE_TRIES
from tests.depth import scaled

SECONDS = scaled(ci=7.0, deep=30.0)
RECORDS = scaled(ci=100, deep=300)
MOST_DIALS = FREE_TRIES + scaled(ci=2, deep=4)
"""After those that are free: after 5 s, then after 10 more, and so on."""
MOST_QUIC_BYTES = MOST_DIALS * 20_000
"""A dial over QUIC sends its first packet, of some 1,300 bytes, again and again for 5 s."""


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=1) as made:
        yield made


async def test_many_records_that_name_one_victim(besieged: Besieged) -> None:
    """Given honest requests, when workers that do not exist are announced, all at the ports of one victim, then he is
    dialled a few times, and no more often the more of them there are."""
    async with Victim() as victim:
        attack = partial(named_victim.attack, records=RECORDS, victim=victim)
        report = await besieged.withstand(attack, SECONDS)
    print(f"{victim.connections} connections, {victim.received_bytes} bytes of QUIC")
    assert victim.connections <= MOST_DIALS
    assert victim.received_bytes <= MOST_QUIC_BYTES
    assert victim.connections > 0, "nobody was ever dialled: the attack shows nothing"
    assert_held(report)
