"""Records that would make gateways dial somebody who has nothing to do with it, with honest requests beside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from bench.harness.attacks import named_victim
from bench.harness.attacks.named_victim import Victim
from bench.harness.siege import Besieged, assert_held, siege
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.errors import PeerUnreachable
from p2pnet.identity import Identity
from p2pnet.network.dial_budget import FREE_TRIES
from p2pnet.network.interface import Stream
from p2pnet.network.multiaddrs import without_peer_id
from p2pnet.peer import Peer
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


# ---- whoever is really there is dialled all the same

PROTOCOL = "/p2pnet/test/1"


@pytest.fixture
async def peers(tmp_path: Path) -> AsyncIterator[tuple[Peer, Peer]]:
    """A gateway, and a worker that it has never met."""
    async with AsyncExitStack() as closing:
        found = []
        for name in ("gateway", "worker"):
            found.append(await Peer.join(NetworkConfig(tmp_path / f"{name}.key", LOOPBACK_LISTEN)))
            closing.push_async_callback(found[-1].close)
        yield found[0], found[1]


async def test_a_worker_whose_address_liars_name_first_is_dialled_all_the_same(peers: tuple[Peer, Peer]) -> None:
    """Given liars whose records name the address of a worker that a gateway has not met, when the gateway has dialled
    some of them in vain and dials no more of them, then it dials the worker."""
    gateway, worker = peers

    async def greet(stream: Stream) -> None:
        await stream.write(b"hello")

    await worker.network.handle(PROTOCOL, greet)
    addresses = await worker.network.addresses()
    for _ in range(FREE_TRIES + 2):
        liar = Identity.generate().peer_id
        named = [f"{without_peer_id(address)}/p2p/{liar}" for address in addresses]
        with pytest.raises(PeerUnreachable) as raised:
            await gateway.network.open_stream(liar, PROTOCOL, named)
    assert "too often in vain" in raised.value.message
    stream = await gateway.network.open_stream(worker.network.peer_id, PROTOCOL, addresses)
    assert await stream.read() == b"hello"
    stream.close()
