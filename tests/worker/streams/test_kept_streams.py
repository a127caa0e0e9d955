"""Several requests after one another on one inbound stream, byte by byte: who may ask so, and what ends it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from p2pnet.config import ExchangeTimeouts, GuardConfig
from p2pnet.directory import validator
from p2pnet.messages import Accepted, Event, Failed, Finished, GenerateRequest, TextDelta, Usage
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryWorld
from p2pnet.receipts.account import Account, Parties
from p2pnet.receipts.hashing import request_hash
from p2pnet.receipts.signed import Acknowledged, Acknowledgement
from p2pnet.receipts.statement import seal_statement
from p2pnet.wire.codec import (
    LENGTH_BYTES,
    MAX_ACKNOWLEDGED_FRAME_BYTES,
    MAX_REQUEST_FRAME_BYTES,
    encode_frame,
    event_decoder,
)
from p2pnet.wire.exchange import GENERATE_PROTOCOL
from p2pnet.worker.backends.synthetic.echo import EchoBackend
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.generate_handler import GenerateHandler
from p2pnet.worker.streams.guard import Guard
from p2pnet.worker.streams.idle import MAX_IDLE_PER_GATEWAY
from p2pnet.worker.streams.signing import Signer
from tests.stories import NOW_MS, ManualClock, ask, peer, settle
from tests.worker.scripted import Scripted

WORKER, GATEWAY = peer("worker"), peer("gateway")
REQUEST = msgspec.structs.replace(ask(text="one two"), keep_stream=True)
LAST = msgspec.structs.replace(REQUEST, request_id="last", keep_stream=False)


def framed(request: GenerateRequest) -> bytes:
    return encode_frame(request, MAX_REQUEST_FRAME_BYTES)


class Site:
    """A worker, and a gateway that speaks to it in bytes."""

    def __init__(self, is_signing: bool = False, guard: GuardConfig | None = None, idle_s: float = 45.0) -> None:
        clock = ManualClock()
        self.backend = EchoBackend()
        catalogue = Catalogue([self.backend])
        self.meter = LoadMeter(100, catalogue, clock, lambda: clock.now_ms / 1000)
        self.signed: list[Acknowledgement] = []
        self.guard = Guard(guard)
        timeouts = ExchangeTimeouts(idle_s=idle_s)
        self.handler = GenerateHandler(catalogue.find, self.meter, timeouts, guard=self.guard)
        if is_signing:
            self.handler.signer = Signer(WORKER, clock, lambda said, _: self.signed.append(said))
        world = MemoryWorld(validator(clock))
        self.worker = world.join(WORKER.peer_id)
        self._gateway = world.join(GATEWAY.peer_id)

    async def open(self) -> Stream:
        await self.worker.handle(GENERATE_PROTOCOL, self.handler)
        return await self._gateway.open_stream(WORKER.peer_id, GENERATE_PROTOCOL)

    async def idle(self) -> Stream:
        """A stream on which a request has been answered, and another one is waited for."""
        before = len(self.guard.idle_streams)
        stream = await self.open()
        await stream.write(framed(REQUEST))
        assert isinstance((await answer(stream))[-1], Finished)
        await settle(lambda: len(self.guard.idle_streams) > before)
        return stream


async def answer(stream: Stream) -> list[Event]:
    """The events up to the last one, or the stream's end."""
    decoder, events = event_decoder(), list[Event]()
    while not events or not isinstance(events[-1], Finished | Failed):
        if not (data := await stream.read()):
            break
        events += decoder.feed(data)
    assert decoder.is_empty
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def signature(answered: list[Event], request: GenerateRequest = REQUEST) -> bytes:
    """What a gateway says of an answer, as a frame."""
    account = Account(
        Parties(WORKER.peer_id, GATEWAY.peer_id), request, request_hash(framed(request)[LENGTH_BYTES:]), NOW_MS
    )
    for event in answered:
        assert isinstance(event, Accepted | TextDelta | Finished)
        account.note(event)
    sealed = seal_statement(account.acknowledgement("received", NOW_MS), GATEWAY)
    return encode_frame(Acknowledged(sealed), MAX_ACKNOWLEDGED_FRAME_BYTES)


async def test_one_stream_serves_one_request_after_another() -> None:
    site = Site()
    stream = await site.open()
    for request, is_kept in ((REQUEST, True), (REQUEST, True), (LAST, False)):
        await stream.write(framed(request))
        events = await answer(stream)
        assert text_of(events) == "one two"
        assert isinstance(events[-1], Finished) and events[-1].keep_stream is is_kept
    assert await stream.read() == b"", "it has not been asked to wait any more"
    assert site.meter.requests_served == 3


@pytest.mark.parametrize("is_signing", [False, True], ids=["unsigned", "signed"])
async def test_a_second_request_may_come_in_any_pieces_behind_what_is_signed_or_without(is_signing: bool) -> None:
    site = Site(is_signing)
    stream = await site.open()
    await stream.write(framed(REQUEST))
    events = await answer(stream)
    count = 0
    for with_signature in (False, True) if is_signing else (False,):
        for piece in (1, 3, 50, 1000):
            data = (signature(events) if with_signature else b"") + framed(REQUEST)
            for start in range(0, len(data), piece):
                await stream.write(data[start : start + piece])
            events = await answer(stream)
            count += with_signature
            assert text_of(events) == "one two"
            assert len(site.signed) == count
    stream.close()


async def test_what_is_signed_is_heard_while_no_other_request_comes() -> None:
    site = Site(is_signing=True)
    stream = await site.open()
    await stream.write(framed(REQUEST))
    said = signature(await answer(stream))
    for byte in said:
        await stream.write(bytes((byte,)))
    await settle(lambda: len(site.signed) == 1)
    assert len(site.guard.idle_streams) == 1
    stream.close()
    await settle(lambda: site.worker.open_streams == 0 and not site.guard.idle_streams)


async def test_a_client_that_does_not_say_that_more_may_come_is_served_as_ever() -> None:
    """One of an earlier version: its request and the last event have no such field, and the worker closes."""
    site = Site()
    stream = await site.open()
    await stream.write(framed(ask()))
    events = await answer(stream)
    assert events[-1] == msgspec.structs.replace(Finished("stop", Usage(3, 3)), load=events[-1].load)  # type: ignore[union-attr]
    assert await stream.read() == b""


async def test_a_second_request_before_the_first_has_ended_stops_both() -> None:
    gate = asyncio.Event()
    site = Site()
    backend = Scripted(Accepted(1), gate, TextDelta("a", (1,)), Finished("stop", Usage(1, 1)))
    site.handler._find = lambda model: backend
    stream = await site.open()
    await stream.write(framed(REQUEST))
    await settle(lambda: backend.running == 1)
    await stream.write(framed(REQUEST))
    events = await answer(stream)
    assert isinstance(events[-1], Failed) and events[-1].code == "protocol_violation"
    assert await stream.read() == b""
    assert (backend.running, site.meter.requests_served) == (0, 0)


GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "junk in a frame": (100).to_bytes(4, "big") + b"\x91" * 100,
    "two requests": framed(REQUEST) * 2,
    "an event": encode_frame(Accepted(1), 1000),
    "a second signature": encode_frame(Acknowledged(b"x"), 1000) * 2,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("is_signing", [False, True], ids=["unsigned", "signed"])
async def test_garbage_in_place_of_a_second_request_ends_the_stream(garbage: bytes, is_signing: bool) -> None:
    site = Site(is_signing)
    stream = await site.idle()
    await stream.write(garbage)
    (failed,) = await answer(stream)
    assert isinstance(failed, Failed) and failed.code == "protocol_violation"
    assert await stream.read() == b""
    assert (site.meter.requests_served, site.signed, len(site.guard.idle_streams)) == (1, [], 0)


async def test_nobody_is_waited_for_for_ever() -> None:
    site = Site(idle_s=0.0)
    stream = await site.open()
    await stream.write(framed(REQUEST))
    assert isinstance((await answer(stream))[-1], Finished)
    assert await stream.read() == b"", "it ends without a word: nothing had been asked"
    assert site.worker.open_streams == 0


async def test_who_keeps_many_streams_loses_the_oldest() -> None:
    site = Site()
    streams = [await site.idle() for _ in range(MAX_IDLE_PER_GATEWAY)]
    newest = await site.open()
    await newest.write(framed(REQUEST))
    await answer(newest)
    assert await streams[0].read() == b""
    assert len(site.guard.idle_streams) == MAX_IDLE_PER_GATEWAY
    await streams[1].write(framed(REQUEST))
    assert text_of(await answer(streams[1])) == "one two"


async def test_each_request_is_checked_as_the_first_one() -> None:
    site = Site(guard=GuardConfig(max_requests_per_minute=12))
    stream = await site.open()
    for _ in range(2):
        await stream.write(framed(REQUEST))
        assert isinstance((await answer(stream))[-1], Finished)
    await stream.write(framed(REQUEST))
    (failed,) = await answer(stream)
    assert isinstance(failed, Failed) and failed.code == "busy"
    assert await stream.read() == b""


async def test_a_worker_that_stops_lets_its_idle_streams_go() -> None:
    site = Site()
    streams = [await site.idle() for _ in range(3)]
    await site.handler.drain(0)
    for stream in streams:
        assert await stream.read() == b""
    stream = await site.open()
    await stream.write(framed(REQUEST))
    assert isinstance((await answer(stream))[-1], Failed)


async def test_a_stream_is_idle_only_while_nothing_is_asked() -> None:
    site = Site()
    ends: list[Stream] = []

    async def noting(stream: Stream) -> None:
        ends.append(stream)
        await site.handler(stream)

    stream = await site.open()
    await site.worker.handle(GENERATE_PROTOCOL, noting)
    stream = await site._gateway.open_stream(WORKER.peer_id, GENERATE_PROTOCOL)
    await settle(lambda: bool(ends))
    assert not ends[0].is_idle
    await stream.write(framed(REQUEST))
    await answer(stream)
    await settle(lambda: ends[0].is_idle)
    await stream.write(framed(REQUEST)[:1])
    await settle(lambda: not ends[0].is_idle)
    stream.close()
