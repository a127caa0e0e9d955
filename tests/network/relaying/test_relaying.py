"""A relay: who gets a place, who gets a circuit, and when that ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from p2pnet.config import RelayLimits
from p2pnet.network.interface import Relayed
from p2pnet.network.libp2p.protobuf import delimited, field
from p2pnet.network.libp2p.relay import FAREWELL, GrantedLimits
from p2pnet.network.libp2p.relay_service import Status, circuit_granted, circuit_offered, place_granted, status
from p2pnet.network.relaying.circuit import IDLE_BYTES, IDLE_S
from p2pnet.network.relaying.relay import FRESH_S, PLACE_S, Relay
from tests.network.libp2p.test_relay_service import PACKED
from tests.network.relaying.relay_ends import GATEWAY, PUBLIC, WORKER, MemoryEnd, Workers
from tests.stories import peer, settle

LIMITS = RelayLimits(
    data_bytes=1000, duration_s=60, max_circuits=8, max_circuits_from_an_address=3, max_circuits_to_a_peer=5
)
GRANTED = GrantedLimits(60, 1000)
OWN_ADDRESS = f"/ip4/203.0.113.1/tcp/31337/p2p/{peer('relay').peer_id}"
RESERVE = b"\x02\x08\x00"
CONNECT = delimited(field(1, 1) + field(2, field(1, PACKED)))


class Site:
    """A relay, its clock, and the streams of those who ask it."""

    def __init__(self, limits: RelayLimits = LIMITS) -> None:
        self.now_s = 1000.0
        self.is_relay = True
        self.workers = Workers(WORKER)
        self.relay = Relay(
            limits,
            self.workers.open,
            lambda: (OWN_ADDRESS,),
            lambda: self.is_relay,
            now_s=lambda: self.now_s,
            unix_s=lambda: 1_800_000_000.5,
        )
        self._serving: list[asyncio.Task[None]] = []

    async def asks(self, message: bytes, peer_id: str = GATEWAY, address: str = PUBLIC) -> MemoryEnd:
        """A stream on which somebody asks, once it was answered."""
        stream = MemoryEnd(peer_id, address, message)
        self._serving.append(asyncio.create_task(self.relay.serve(stream)))
        await settle(lambda: bool(stream.sent) or stream.is_closed)
        return stream

    async def takes_place(self, peer_id: str = WORKER) -> None:
        stream = await self.asks(RESERVE, peer_id)
        stream.go()

    async def circuit(self, number: int = 0, address: str = PUBLIC) -> tuple[MemoryEnd, MemoryEnd]:
        """One that has been made: both ends of it."""
        asker = await self.asks(CONNECT, peer(f"gateway {number}").peer_id, address)
        assert asker.sent == [circuit_granted(GRANTED)]
        return asker, self.workers.streams[-1]

    async def close(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    await made.takes_place()
    yield made
    await made.close()


async def test_a_place_is_given(site: Site) -> None:
    stream = await site.asks(RESERVE, WORKER)
    assert stream.sent == [place_granted(1_800_000_000 + PLACE_S, (OWN_ADDRESS,), GRANTED)]
    assert not stream.is_closed, "before it was read"
    stream.come(FAREWELL)
    await settle(lambda: stream.is_closed)


async def test_a_place_is_given_with_how_busy_the_relay_is(site: Site) -> None:
    for number in range(2):
        await site.circuit(number)
    stream = await site.asks(RESERVE, peer("another").peer_id)
    assert stream.sent == [place_granted(1_800_000_000 + PLACE_S, (OWN_ADDRESS,), GRANTED, load_percent=25)]


async def test_a_circuit_carries_what_comes_both_ways(site: Site) -> None:
    asker, taker = await site.circuit()
    assert taker.sent == [circuit_offered(asker.peer_id, GRANTED)]
    asker.come(b"ask")
    taker.come(b"answer")
    await settle(lambda: taker.sent[1:] == [b"ask"] and asker.sent[1:] == [b"answer"])
    assert site.relay.relayed == Relayed(places=1, circuits=1, circuits_made=1, bytes=9)


async def test_what_a_worker_says_with_its_yes_is_carried() -> None:
    site = Site()
    site.workers.answer += b"early"
    await site.takes_place()
    asker, _ = await site.circuit()
    await settle(lambda: asker.sent[1:] == [b"early"])
    await site.close()


@pytest.mark.parametrize("who", ["the asker", "the taker"])
async def test_when_one_end_goes_the_other_is_told(site: Site, who: str) -> None:
    asker, taker = await site.circuit()
    gone, left = (asker, taker) if who == "the asker" else (taker, asker)
    gone.go()
    await settle(lambda: left.is_closed)
    assert left.sent[-1] == FAREWELL
    assert gone.is_closed
    assert FAREWELL not in gone.sent
    await settle(lambda: site.relay.relayed.circuits == 0)


async def test_a_circuit_ends_when_it_has_carried_its_bytes_one_way(site: Site) -> None:
    asker, taker = await site.circuit()
    asker.come(bytes(999))
    taker.come(bytes(1000))
    await settle(lambda: len(taker.sent) == 2 and len(asker.sent) == 2)
    asker.come(b"xy")
    await settle(lambda: asker.is_closed and taker.is_closed)
    assert taker.sent[-1] == FAREWELL, "and not what was too much"


async def test_a_circuit_ends_when_its_time_is_over() -> None:
    site = Site(replace(LIMITS, duration_s=0))
    await site.takes_place()
    asker = await site.asks(CONNECT)
    await settle(lambda: asker.is_closed and site.workers.streams[-1].is_closed)
    await site.close()


async def test_a_circuit_that_carries_nothing_ends(site: Site) -> None:
    idle, busy = await site.circuit(1), await site.circuit(2)
    site.relay.look({WORKER})
    for _ in range(2):
        site.now_s += IDLE_S / 2
        busy[0].come(bytes(400))
        await settle(lambda: not busy[0]._coming)
        site.relay.look({WORKER})
    await settle(lambda: idle[0].is_closed)
    assert IDLE_BYTES > 800, "what is busy here would be idle too"


async def test_who_is_not_connected_any_more_has_no_place(site: Site) -> None:
    site.relay.look(())
    assert site.relay.relayed.places == 1, "it may have come since those were looked up"
    site.now_s += FRESH_S
    site.relay.look({WORKER})
    assert site.relay.relayed.places == 1
    site.relay.look(())
    assert (await site.asks(CONNECT)).sent == [status(Status.NO_RESERVATION)]


async def test_a_place_that_is_not_renewed_ends(site: Site) -> None:
    site.now_s += PLACE_S - 1
    site.relay.look({WORKER})
    assert site.relay.relayed.places == 1
    site.now_s += 1
    site.relay.look({WORKER})
    assert site.relay.relayed.places == 0


@pytest.mark.parametrize(
    ("message", "address", "expected"),
    [
        (CONNECT, f"{OWN_ADDRESS}/p2p-circuit", Status.PERMISSION_DENIED),
        (RESERVE, f"{OWN_ADDRESS}/p2p-circuit", Status.PERMISSION_DENIED),
        (b"\x02\x08\x02", PUBLIC, Status.MALFORMED_MESSAGE),
    ],
    ids=["a circuit through two relays", "a place through another relay", "what is not asked"],
)
async def test_refusals(site: Site, message: bytes, address: str, expected: Status) -> None:
    stream = await site.asks(message, GATEWAY, address)
    assert stream.sent == [status(expected)]
    stream.go()
    await settle(lambda: stream.is_closed)
    assert site.workers.streams == []


async def test_one_that_nobody_can_dial_relays_for_nobody(site: Site) -> None:
    site.is_relay = False
    assert (await site.asks(RESERVE)).sent == [status(Status.PERMISSION_DENIED)]
    assert (await site.asks(CONNECT)).sent == [status(Status.PERMISSION_DENIED)]


async def test_nobody_has_a_circuit_to_itself(site: Site) -> None:
    assert (await site.asks(CONNECT, WORKER)).sent == [status(Status.NO_RESERVATION)]


@pytest.mark.parametrize("answer", [b"\x05\x08\x01\x20\xcb\x01", b"", b"\xff" * 12])
async def test_a_worker_that_takes_no_circuit(site: Site, answer: bytes) -> None:
    site.workers.answer = answer
    if not answer:
        site.workers.there.clear()
    asker = await site.asks(CONNECT)
    if answer.startswith(b"\xff"):
        assert site.workers.streams[-1].is_closed
    assert asker.sent == [status(Status.CONNECTION_FAILED)]
    assert all(stream.is_closed for stream in site.workers.streams)
    assert site.relay.relayed.circuits == 0


async def test_junk_is_not_answered(site: Site) -> None:
    stream = await site.asks(b"\xff" * 20)
    assert stream.is_closed
    assert stream.sent == []


def far(number: int) -> str:
    """An address that belongs together with no other number's."""
    return f"/ip4/20.2.{number}.1/tcp/4001"


async def test_one_address_has_so_many_circuits(site: Site) -> None:
    made = [await site.circuit(number) for number in range(LIMITS.max_circuits_from_an_address)]
    refused = await site.asks(CONNECT, peer("one more").peer_id, "/ip4/20.1.1.77/tcp/1")
    assert refused.sent == [status(Status.RESOURCE_LIMIT_EXCEEDED)]
    await site.circuit(7, far(7))
    made[0][0].go()
    await settle(lambda: site.relay.relayed.circuits == LIMITS.max_circuits_from_an_address)
    await site.circuit(8)


async def test_one_peer_has_so_many_circuits_to_it(site: Site) -> None:
    for number in range(LIMITS.max_circuits_to_a_peer):
        await site.circuit(number, far(number))
    refused = await site.asks(CONNECT, GATEWAY, far(100))
    assert refused.sent == [status(Status.RESOURCE_LIMIT_EXCEEDED)]


async def test_with_too_many_circuits_the_newest_of_who_has_most_ends() -> None:
    site = Site(replace(LIMITS, max_circuits=4))
    await site.takes_place()
    crowd = [await site.circuit(number) for number in range(3)]
    early, late = await site.circuit(10, far(1)), await site.circuit(11, far(2))
    await settle(lambda: crowd[2][0].is_closed and crowd[2][1].is_closed)
    assert not any(end.is_closed for circuit in (*crowd[:2], early, late) for end in circuit)
    await site.close()


async def test_circuits_are_made_so_often_for_one_address(site: Site) -> None:
    at_once = LIMITS.circuits_per_minute // 6
    for _ in range(at_once):
        stream = await site.asks(delimited(field(1, 1) + field(2, field(1, b"somebody"))))
        assert stream.sent == [status(Status.NO_RESERVATION)]
        stream.go()
    assert (await site.asks(CONNECT)).sent == [status(Status.RESOURCE_LIMIT_EXCEEDED)]
    await site.circuit(1, far(1))
    site.now_s += 1
    await site.circuit(2)
