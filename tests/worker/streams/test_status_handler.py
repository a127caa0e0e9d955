"""Probes: answered at once whatever the worker is doing, in any pieces, and never more than is fair."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack, aclosing

import pytest

from p2pnet.client import generate, status
from p2pnet.config import DirectoryConfig, ExchangeTimeouts, GuardConfig, WorkerConfig
from p2pnet.directory import Directory, validator
from p2pnet.errors import Busy, NotAllowed
from p2pnet.messages import Accepted, Failed, Finished, Load, TextDelta, Usage
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryWorld
from p2pnet.status_messages import Status, StatusEvent, StatusRequest
from p2pnet.wire.codec import MAX_STATUS_FRAME_BYTES, encode_frame, status_event_decoder
from p2pnet.wire.exchange import STATUS_PROTOCOL
from p2pnet.worker.owner.owner import Owner
from p2pnet.worker.serve import Worker
from p2pnet.worker.streams.arrivals import MAX_UNREAD_REQUESTS
from p2pnet.worker.streams.guard import PROBES_PER_MINUTE, Guard
from p2pnet.worker.streams.status_handler import StatusHandler
from tests.stories import ManualClock, ask, card, peer, settle
from tests.worker.scripted import Scripted, Step

WORKER = peer("worker")
GATEWAY = peer("gateway").peer_id
PROBE = encode_frame(StatusRequest(), MAX_STATUS_FRAME_BYTES)
STATUS = Status(True, Load(1, 2, 8, 7), 5)

# ---- one stream


class Site:
    """A handler that has this to say, and a gateway that speaks to it in bytes."""

    def __init__(self, said: Status = STATUS, guard: GuardConfig | None = None, **timeouts: float) -> None:
        self.clock = ManualClock()
        self.handler = StatusHandler(
            lambda: said, Guard(guard, lambda: self.clock.now_ms / 1000), ExchangeTimeouts(**timeouts)
        )
        world = MemoryWorld(validator(self.clock))
        self._worker = world.join(WORKER.peer_id)
        self._gateway = world.join(GATEWAY)

    async def open(self, *data: bytes) -> Stream:
        await self._worker.handle(STATUS_PROTOCOL, self.handler)
        stream = await self._gateway.open_stream(WORKER.peer_id, STATUS_PROTOCOL)
        for piece in data:
            await stream.write(piece)
        return stream

    async def ask(self, *data: bytes) -> list[StatusEvent]:
        """Everything that is answered, up to the stream's end."""
        stream, decoder, events = await self.open(*data), status_event_decoder(), list[StatusEvent]()
        while received := await stream.read():
            events += decoder.feed(received)
        assert decoder.is_empty
        return events

    async def code(self, *data: bytes) -> str:
        (failed,) = await self.ask(*data)
        assert isinstance(failed, Failed)
        return failed.code


async def test_a_probe_is_answered_and_the_stream_ends() -> None:
    assert await Site().ask(PROBE) == [STATUS]


async def test_a_probe_in_any_pieces_is_one_probe() -> None:
    for cut in range(1, len(PROBE)):
        assert await Site().ask(PROBE[:cut], PROBE[cut:]) == [STATUS]
    assert await Site().ask(*(PROBE[at : at + 1] for at in range(len(PROBE)))) == [STATUS]


BAD_PROBES: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "an oversized length": (MAX_STATUS_FRAME_BYTES + 1).to_bytes(4, "big"),
    "an empty frame": bytes(4),
    "junk in a frame": (1000).to_bytes(4, "big") + random.Random(1).randbytes(1000),
    "another request": encode_frame(ask(), MAX_STATUS_FRAME_BYTES),
    "a status": encode_frame(STATUS, MAX_STATUS_FRAME_BYTES),
    "two probes": PROBE * 2,
    "a byte after the probe": PROBE + b"\0",
}


@pytest.mark.parametrize("data", BAD_PROBES.values(), ids=BAD_PROBES)
async def test_a_bad_probe_is_a_violation(data: bytes) -> None:
    assert await Site().code(data) == "protocol_violation"


async def test_fields_that_come_later_are_ignored() -> None:
    body = b"\x82\xa4type\xa5probe\xa5later\xc3"
    assert await Site().ask(len(body).to_bytes(4, "big") + body) == [STATUS]


async def test_who_says_nothing_is_given_up() -> None:
    assert await Site(request_s=0.03).code() == "protocol_violation"


async def test_probes_that_are_on_their_way_are_bounded() -> None:
    site = Site()
    waiting = []
    while len(waiting) < MAX_UNREAD_REQUESTS:
        site.clock.advance(60 / PROBES_PER_MINUTE)
        waiting.append(await site.open(PROBE[:3]))
        await settle(lambda: site.handler.unread == len(waiting))
    site.clock.advance(60 / PROBES_PER_MINUTE)
    assert await site.ask(PROBE) == [STATUS]
    assert status_event_decoder().feed(await waiting.pop(0).read())[0].code == "busy"
    for stream in waiting:
        stream.close()
    await settle(lambda: site.handler.unread == 0)


async def test_who_probes_too_often_is_told_so() -> None:
    site = Site()
    for _ in range(int(PROBES_PER_MINUTE / 6)):
        assert await site.ask(PROBE) == [STATUS]
    assert await site.code(PROBE) == "busy"
    site.clock.advance(1)
    assert await site.ask(PROBE) == [STATUS]


async def test_who_is_blocked_is_not_told() -> None:
    assert await Site(guard=GuardConfig(blocked_gateways=frozenset({GATEWAY}))).code(PROBE) == "not_allowed"


# ---- a whole worker


class Swarm:
    """A worker with a script, and a gateway that probes it."""

    def __init__(self, *steps: Step) -> None:
        self.clock = ManualClock()
        self.backend = Scripted(*steps, models=(card("tiny"),))
        self.owner = Owner()
        world = MemoryWorld(validator(self.clock))
        self.network = world.join(WORKER.peer_id)
        self.gateway = world.join(GATEWAY)
        self.reader = Directory(self.gateway, self.clock)

    async def start(self, guard: GuardConfig | None = None) -> Worker:
        config = WorkerConfig(max_concurrency=2, drain_s=5, guard=guard or GuardConfig())
        quiet = DirectoryConfig(capability_lifetime_s=500)
        return await Worker.start(
            self.network, WORKER, [self.backend], self.clock, config, directory=quiet, owner=self.owner
        )

    async def probe(self) -> Status:
        return await status(self.gateway, WORKER.peer_id, (), timeout_s=10)


async def test_a_status_names_the_record_that_the_directory_has() -> None:
    swarm = Swarm()
    worker = await swarm.start()
    (record,) = await swarm.reader.workers()
    assert STATUS_PROTOCOL in record.protocols
    found = await swarm.probe()
    assert found == Status(True, Load(slots=2, sampled_ms=swarm.clock.now_ms), record.sequence)
    # When its models change, then the number does.
    swarm.backend.models = (card("tiny"), card("other"))
    swarm.clock.advance(1)
    swarm.network.change()
    await settle(lambda: worker.status.record_sequence > record.sequence)
    (newer,) = await swarm.reader.workers()
    assert (await swarm.probe()).record_sequence == newer.sequence
    await worker.stop()


async def test_a_full_worker_answers_as_an_idle_one_and_gives_no_slot_for_it() -> None:
    gate = asyncio.Event()
    swarm = Swarm(Accepted(1), gate, TextDelta("a", (1,)), Finished("stop", Usage(1, 1)))
    worker = await swarm.start()
    held = [generate(swarm.gateway, WORKER.peer_id, ask("tiny")) for _ in range(2)]
    for answer in held:
        assert isinstance(await anext(answer), Accepted)
    for _ in range(3):
        load = (await swarm.probe()).load
        assert (load.queued, load.slots) == (2, 2)
    with pytest.raises(Busy):
        await anext(generate(swarm.gateway, WORKER.peer_id, ask("tiny")))
    gate.set()
    for answer in held:
        async with aclosing(answer):
            assert isinstance([event async for event in answer][-1], Finished)
    assert (await swarm.probe()).load.queued == 0
    await worker.stop()


async def test_a_worker_that_is_paused_says_so() -> None:
    swarm = Swarm()
    worker = await swarm.start()
    before = await swarm.probe()
    swarm.clock.advance(1)
    swarm.owner.toggle()
    assert not (await swarm.probe()).is_serving
    await settle(lambda: worker.status.record_sequence > before.record_sequence)
    swarm.owner.toggle()
    assert (await swarm.probe()).is_serving
    await worker.stop()


async def test_a_worker_without_models_serves_nothing() -> None:
    swarm = Swarm()
    worker = await swarm.start()
    swarm.backend.models = ()
    assert not (await swarm.probe()).is_serving
    await worker.stop()


async def test_a_worker_that_stops_says_so_while_it_drains() -> None:
    gate = asyncio.Event()
    swarm = Swarm(Accepted(1), gate, Finished("stop", Usage(1, 0)))
    worker = await swarm.start()
    with ExitStack() as opening:
        opening.callback(gate.set)
        running = generate(swarm.gateway, WORKER.peer_id, ask("tiny"))
        assert isinstance(await anext(running), Accepted)
        stopping = asyncio.create_task(worker.stop())
        await settle(lambda: not worker.status.is_serving)
        assert not (await swarm.probe()).is_serving
    assert isinstance([event async for event in running][-1], Finished)
    await stopping


async def test_a_gateway_that_is_not_on_the_list_learns_nothing() -> None:
    swarm = Swarm()
    worker = await swarm.start(GuardConfig(allowed_gateways=frozenset({peer("another").peer_id})))
    with pytest.raises(NotAllowed):
        await swarm.probe()
    await worker.stop()
