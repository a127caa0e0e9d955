"""A gateway that watches a worker: what it is told and when, byte by byte, and how many may watch."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress

import pytest

from p2pnet.client import watch
from p2pnet.config import GuardConfig
from p2pnet.directory import validator
from p2pnet.errors import Busy, NotAllowed, P2PNetError, PeerLost, PeerSilent, ProtocolViolation
from p2pnet.messages import Failed, Load
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryWorld
from p2pnet.status_messages import Announced, Status, WatchEvent, WatchRequest
from p2pnet.wire.codec import MAX_STATUS_FRAME_BYTES, MAX_WATCH_FRAME_BYTES, encode_frame, watch_event_decoder
from p2pnet.wire.exchange import WATCH_PROTOCOL
from p2pnet.worker.streams.guard import Guard
from p2pnet.worker.streams.watch_handler import HEARTBEAT_S, PUSH_S, WatchHandler
from p2pnet.worker.streams.watchers import MAX_WATCHERS, MAX_WATCHERS_PER_GATEWAY, Watchers
from tests.stories import ManualClock, peer, settle

WORKER = peer("worker").peer_id
GATEWAY = peer("gateway").peer_id
WATCH = encode_frame(WatchRequest(), MAX_STATUS_FRAME_BYTES)


class Site:
    """A worker of which a test says how it is, and when the handler looks."""

    def __init__(self, config: GuardConfig | None = None) -> None:
        self.said = Status(True, Load(0, 0, 8, 1), 5)
        self.records: tuple[bytes, ...] = (b"a record",)
        self._ticks = asyncio.Semaphore(0)
        self.handler = WatchHandler(
            lambda: self.said, lambda: self.records, Guard(config, lambda: 0.0), sleep=self._sleep
        )
        self.world = MemoryWorld(validator(ManualClock()))
        self.worker, self.gateway = self.world.join(WORKER), self.world.join(GATEWAY)
        self._decoder = watch_event_decoder()
        self.events: list[WatchEvent] = []

    async def _sleep(self, seconds: float) -> None:
        assert seconds == PUSH_S
        await self._ticks.acquire()

    async def open(self, *data: bytes) -> Stream:
        await self.worker.handle(WATCH_PROTOCOL, self.handler)
        stream = await self.gateway.open_stream(WORKER, WATCH_PROTOCOL)
        for piece in data:
            await stream.write(piece)
        return stream

    async def told(self, stream: Stream) -> list[WatchEvent]:
        return self._decoder.feed(await stream.read())

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self._ticks.release()


async def test_it_is_told_at_once_how_the_worker_is_and_what_it_announces() -> None:
    for cut in range(1, len(WATCH)):
        site = Site()
        stream = await site.open(WATCH[:cut], WATCH[cut:])
        assert await site.told(stream) == [site.said, Announced(b"a record")]
        await site.worker.kill()


async def test_then_what_changes_and_a_word_every_second() -> None:
    site = Site()
    stream = await site.open(WATCH)
    await site.told(stream)
    # When nothing but the time of the load is another, then nothing is said until it is time for a word.
    site.said = Status(True, Load(0, 0, 8, 2), 5)
    site.tick(round(HEARTBEAT_S / PUSH_S))
    assert await site.told(stream) == [site.said]
    # When the load changes, or what is announced, then that is said with the next look.
    site.said = Status(True, Load(3, 1, 8, 3), 5)
    site.tick()
    assert await site.told(stream) == [site.said]
    site.records = (b"a record", b"another")
    site.tick()
    assert await site.told(stream) == [site.said, Announced(b"another")]
    site.said = Status(False, Load(3, 1, 8, 3), 5)
    site.tick()
    assert await site.told(stream) == [site.said]
    await site.worker.kill()


async def test_whoever_goes_frees_its_place() -> None:
    site = Site()
    stream = await site.open(WATCH)
    await site.told(stream)
    assert len(site.handler.watchers) == 1
    stream.close()
    await settle(lambda: len(site.handler.watchers) == 0)


async def test_a_gateway_that_says_more_than_its_request_is_told_no_more() -> None:
    site = Site()
    stream = await site.open(WATCH)
    await site.told(stream)
    await stream.write(b"x")
    (failed,) = await site.told(stream)
    assert isinstance(failed, Failed) and failed.code == "protocol_violation"
    await settle(lambda: len(site.handler.watchers) == 0)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", WATCH + WATCH, WATCH[:-1] + b"\xc1"])
async def test_what_is_no_watch_is_refused(data: bytes) -> None:
    site = Site()
    (failed,) = await site.told(await site.open(data))
    assert isinstance(failed, Failed) and failed.code == "protocol_violation"


async def test_a_gateway_that_is_blocked_may_not_watch() -> None:
    site = Site(GuardConfig(blocked_gateways=frozenset({GATEWAY})))
    await site.worker.handle(WATCH_PROTOCOL, site.handler)
    with pytest.raises(NotAllowed):
        await anext(watch(site.gateway, WORKER, (), 1.0, 1.0))


# ---- how many may watch


def test_strangers_watch_as_long_as_there_is_room_and_those_who_were_served_push_them_out() -> None:
    served: set[str] = set()
    watchers = Watchers(served.__contains__)
    with ExitStack() as held:
        places = [held.enter_context(watchers.place(f"stranger {number}")) for number in range(MAX_WATCHERS)]
        with pytest.raises(Busy):
            held.enter_context(watchers.place("one more"))
        served.add("served")
        held.enter_context(watchers.place("served"))
        with pytest.raises(Busy):
            places[0].check()
        places[1].check()
        assert len(watchers) == MAX_WATCHERS
    assert len(watchers) == 0


def test_one_gateway_has_few_places_and_its_oldest_goes() -> None:
    watchers = Watchers(lambda _: False)
    with ExitStack() as held:
        places = [held.enter_context(watchers.place("gateway")) for _ in range(MAX_WATCHERS_PER_GATEWAY + 1)]
        assert [place.is_held for place in places] == [False, *[True] * MAX_WATCHERS_PER_GATEWAY]


# ---- what a gateway makes of a worker's words


async def said(*chunks: bytes, ends: bool = True) -> list[object]:
    """What a watch yields of a worker that says this, and what it raises."""
    world = MemoryWorld(validator(ManualClock()))

    async def handle(stream: Stream) -> None:
        for chunk in chunks:
            await stream.write(chunk)
        if not ends:
            await asyncio.Event().wait()

    worker = world.join(WORKER)
    await worker.handle(WATCH_PROTOCOL, handle)
    found: list[object] = []
    try:
        async for event in watch(world.join(GATEWAY), WORKER, (), 0.01, 0.01):
            found.append(event)
    except P2PNetError as error:
        found.append(type(error))
    with suppress(asyncio.CancelledError):
        await worker.kill()
    return found


def framed(*events: WatchEvent) -> bytes:
    return b"".join(encode_frame(event, MAX_WATCH_FRAME_BYTES) for event in events)


STATUS, ANNOUNCED = Status(True), Announced(b"x")


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((), [PeerLost]),
        ((framed(STATUS),), [STATUS, PeerLost]),
        ((framed(STATUS, ANNOUNCED, STATUS),), [STATUS, ANNOUNCED, STATUS, PeerLost]),
        ((framed(ANNOUNCED),), [ProtocolViolation]),
        ((framed(STATUS), framed(Failed("busy", "no room"))), [STATUS, Busy]),
        ((framed(Failed("busy", "no room"), STATUS),), [ProtocolViolation]),
        ((b"\xff\xff\xff\xff",), [ProtocolViolation]),
        (((MAX_WATCH_FRAME_BYTES + 1).to_bytes(4, "big"),), [ProtocolViolation]),
    ],
)
async def test_a_watch_is_a_status_and_then_anything_until_it_ends(
    chunks: tuple[bytes, ...], expected: list[object]
) -> None:
    assert await said(*chunks) == expected


async def test_a_worker_that_falls_silent_is_told_from_one_that_has_gone() -> None:
    assert await said(framed(STATUS), ends=False) == [STATUS, PeerSilent]
    assert await said(ends=False) == [PeerSilent]
