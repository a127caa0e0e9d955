"""One inbound stream: answers, refusals, clients that go away, lie or stop reading, and backends that break."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pnet.config import ExchangeTimeouts
from p2pnet.directory import validator
from p2pnet.errors import ContextOverflow, InvalidRequest, WorkerFailed
from p2pnet.messages import (
    Accepted,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Load,
    Measure,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from p2pnet.network.interface import Stream
from p2pnet.network.memory import WINDOW_BYTES, MemoryNetwork, MemoryWorld
from p2pnet.receipts.signed import Receipt
from p2pnet.receipts.statement import open_statement
from p2pnet.score_messages import Scored
from p2pnet.wire.codec import (
    MAX_EVENT_FRAME_BYTES,
    MAX_REQUEST_FRAME_BYTES,
    encode_frame,
    event_decoder,
)
from p2pnet.wire.exchange import GENERATE_PROTOCOL
from p2pnet.worker.backend import Backend, BackendEvent, BackendLoad
from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.arrivals import MAX_UNREAD_REQUESTS
from p2pnet.worker.streams.generate_handler import READ_AHEAD_EVENTS, GenerateHandler, tokens_in
from p2pnet.worker.streams.signing import Signer, drop
from tests.stories import ManualClock, ask, card, peer, settle
from tests.worker.scripted import Scripted, Step

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id

ONE_STEP = 12
"""Turns of the event loop from a client's going to its slot being free: no compute fits between them."""

PART = TextDelta("a" * (WINDOW_BYTES // READ_AHEAD_EVENTS + 100))
"""As many of these as are read ahead fill a stream."""


class Site:
    """A worker's handler, and a client that speaks to it in bytes."""

    def __init__(self, backend: Backend, slots: int = 2, **timeouts: float) -> None:
        self.clock = ManualClock()
        self.catalogue = Catalogue([backend])
        self.meter = LoadMeter(slots, self.catalogue, self.clock, lambda: self.clock.now_ms / 1000)
        self.handler = GenerateHandler(self.catalogue.find, self.meter, ExchangeTimeouts(**timeouts))
        world = MemoryWorld(validator(self.clock))
        self._worker = world.join(WORKER)
        self._client: MemoryNetwork = world.join(CLIENT)

    async def open(self, *data: bytes | GenerateRequest) -> Stream:
        await self._worker.handle(GENERATE_PROTOCOL, self.handler)
        stream = await self._client.open_stream(WORKER, GENERATE_PROTOCOL)
        for item in data:
            await stream.write(item if isinstance(item, bytes) else framed(item))
        return stream

    async def ask(self, *data: bytes | GenerateRequest) -> list[Event | Scored]:
        """Everything that is answered, up to the stream's end."""
        return await events_of(await self.open(*data))

    def is_free(self) -> bool:
        return (self.meter.load.running, self.meter.load.queued) == (0, 0)


def framed(request: GenerateRequest) -> bytes:
    return encode_frame(request, MAX_REQUEST_FRAME_BYTES)


DONE = Finished("stop", Usage(1, 1))


async def events_of(stream: Stream) -> list[Event | Scored]:
    decoder, events = event_decoder(), list[Event | Scored]()
    while data := await stream.read():
        events += decoder.feed(data)
    assert decoder.is_empty
    return events


async def first_event(stream: Stream) -> Event:
    return event_decoder().feed(await stream.read())[0]


@asynccontextmanager
async def gated_echo(hold_at: int) -> AsyncIterator[tuple[EchoBackend, asyncio.Event, list[int]]]:
    """An echo backend that waits before token `hold_at`, its gate, and the tokens it was about to make."""
    gate, begun = asyncio.Event(), list[int]()

    async def hold(index: int) -> None:
        begun.append(index)
        if index >= hold_at:
            await gate.wait()

    yield EchoBackend(gate=hold), gate, begun
    gate.set()


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def only_failure(events: list[Event]) -> Failed:
    (failure,) = events
    assert isinstance(failure, Failed)
    return failure


# ---- answers


async def test_a_request_is_answered_in_full_and_the_stream_ends() -> None:
    site = Site(EchoBackend())
    accepted, *deltas, finished = await site.ask(ask(text="one two three"))
    assert isinstance(accepted, Accepted) and accepted.prompt_tokens == 3
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    assert text_of(deltas) == "one two three"
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage) == ("stop", Usage(3, 3))
    assert site.is_free()
    assert (site.meter.requests_served, site.meter.tokens_served) == (1, 3)


async def test_the_worker_says_how_busy_it_is() -> None:
    async with gated_echo(hold_at=0) as (backend, gate, _):
        site = Site(backend, slots=5)
        stream = await site.open(ask())
        accepted = await first_event(stream)
        now_ms = site.clock.now_ms
        assert isinstance(accepted, Accepted)
        assert accepted.load == Load(running=0, queued=1, slots=5, sampled_ms=now_ms)
        site.clock.advance(3)
        gate.set()
        finished = (await events_of(stream))[-1]
        assert isinstance(finished, Finished)
        assert finished.load == Load(
            running=0, queued=0, slots=5, sampled_ms=now_ms + 3000, first_token_s=Measure(3.0, now_ms + 3000)
        )


async def test_the_worker_says_what_its_backend_knows_of_its_load() -> None:
    backend = Scripted(Accepted(1), TextDelta("a", (1,)), Finished("stop", Usage(1, 1)))
    backend.load = BackendLoad(100, 4096, Measure(50.0, 7), Measure(900.0, 8))
    accepted, _, finished = await Site(backend).ask(ask())
    for event in (accepted, finished):
        assert isinstance(event, Accepted | Finished)
        load = event.load
        assert (load.kv_free_tokens, load.kv_total_tokens) == (100, 4096)
        assert (load.decode_tokens_per_s, load.prefill_tokens_per_s) == (Measure(50.0, 7), Measure(900.0, 8))


async def test_a_request_in_any_pieces_is_one_request() -> None:
    data = framed(ask(text="one two"))
    for cut in range(1, len(data)):
        events = await Site(EchoBackend()).ask(data[:cut], data[cut:])
        assert text_of(events) == "one two"


async def test_deltas_that_wait_travel_together() -> None:
    texts = [f"t{number} " for number in range(100)]
    deltas = [TextDelta(text, (number,)) for number, text in enumerate(texts)]
    events = await Site(Scripted(Accepted(1), *deltas, Finished("stop", Usage(1, 100)))).ask(ask())
    assert [type(event) for event in events] == [Accepted, TextDelta, Finished]
    assert isinstance(delta := events[1], TextDelta)
    assert (delta.text, delta.token_ids) == ("".join(texts), tuple(range(100)))


async def test_a_long_answer_arrives_whole_however_the_client_reads() -> None:
    deltas = [TextDelta(f"{number:07} ", (number,)) for number in range(3000)]
    site = Site(Scripted(Accepted(1), *deltas, Finished("length", Usage(1, 3000))))
    stream = await site.open(ask())
    for _ in range(50):  # the backend runs ahead as far as it may
        await asyncio.sleep(0)
    events = await events_of(stream)
    assert text_of(events) == "".join(delta.text for delta in deltas)
    assert sum((event.token_ids for event in events if isinstance(event, TextDelta)), ()) == tuple(range(3000))
    assert isinstance(events[-1], Finished)


async def test_requests_at_the_same_time_have_their_own_answers() -> None:
    site = Site(EchoBackend(), slots=8)
    answers = await asyncio.gather(*(site.ask(ask(text=f"{number} and on")) for number in range(8)))
    assert [text_of(events) for events in answers] == [f"{number} and on" for number in range(8)]


# ---- counting

COUNTED: list[tuple[list[BackendEvent], int]] = [
    ([], 0),
    ([Accepted(7), Finished("stop", Usage(7, 3))], 0),
    ([TextDelta("a", (1,)), TextDelta("b", (2, 3))], 3),
    ([TextDelta("a"), TextDelta("b")], 2),
    ([TextDelta("the prompt", (1, 2, 3), is_prompt=True), TextDelta("a", (4,), choice=1)], 1),
    ([TextDelta(tool_calls=(ToolCallDelta(0, "c", "f"),)), TextDelta(token_ids=(1,))], 2),
]


@pytest.mark.parametrize(("events", "tokens"), COUNTED)
def test_tokens_in(events: list[BackendEvent], tokens: int) -> None:
    assert tokens_in(events) == tokens


async def test_the_echo_of_a_prompt_is_no_first_token() -> None:
    gate = asyncio.Event()
    site = Site(Scripted(Accepted(1), TextDelta("hi", is_prompt=True), gate, TextDelta(" there", (1,)), DONE))
    stream = await site.open(ask(echo=True))
    await settle(lambda: site.meter.load.queued == 1)
    site.clock.advance(2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert site.meter.running == 0
    gate.set()
    await events_of(stream)
    assert site.meter.load.first_token_s.value == 2.0


# ---- refusals


async def test_a_full_worker_is_busy_at_once() -> None:
    async with gated_echo(hold_at=1) as (backend, gate, begun):
        site = Site(backend, slots=1)
        first = await site.open(ask())
        await settle(lambda: begun == [0, 1])
        for _ in range(3):
            assert only_failure(await site.ask(ask())).code == "busy"
        gate.set()
        assert text_of(await events_of(first)) == "one two three"
        assert text_of(await site.ask(ask())) == "one two three"


async def test_a_full_model_leaves_the_others_their_slots() -> None:
    gate = asyncio.Event()
    backend = Scripted(Accepted(1), gate, TextDelta("a", (1,)), DONE, models=(card("echo"), card("other")))
    site = Site(backend, slots=1)
    held = await site.open(ask())
    assert isinstance(await first_event(held), Accepted)
    assert only_failure(await site.ask(ask())).code == "busy"
    other = await site.open(ask("other"))
    accepted = await first_event(other)
    assert isinstance(accepted, Accepted)
    assert (accepted.load.queued, accepted.load.slots) == (2, 2)
    gate.set()
    for stream in (held, other):
        assert isinstance((await events_of(stream))[-1], Finished)


async def test_a_request_of_many_answers_takes_one_slot() -> None:
    gate = asyncio.Event()
    site = Site(Scripted(Accepted(1), gate, DONE), slots=2)
    held = await site.open(ask(n=16))
    assert isinstance(await first_event(held), Accepted)
    assert site.meter.load.queued == 1
    gate.set()
    assert isinstance((await site.ask(ask()))[-1], Finished)
    await events_of(held)


async def test_models_are_served_as_they_come_and_go() -> None:
    site = Site(backend := Scripted(Accepted(1), DONE, models=()))
    assert only_failure(await site.ask(ask())).code == "model_not_found"
    backend.models = (card("echo"),)
    assert isinstance((await site.ask(ask()))[-1], Finished)
    backend.models = (card("other"), card("echo", task="embed"))
    assert only_failure(await site.ask(ask())).code == "model_not_found"


async def test_what_a_backend_lacks_is_refused_by_name() -> None:
    failure = only_failure(await Site(EchoBackend()).ask(ask(logprobs=2)))
    assert failure.code == "feature_missing"
    assert "logprobs" in failure.message


async def test_another_model_is_not_found() -> None:
    failure = only_failure(await Site(EchoBackend()).ask(ask("other")))
    assert failure.code == "model_not_found"
    assert "other" in failure.message


async def test_another_digest_is_not_found() -> None:
    assert only_failure(await Site(EchoBackend()).ask(ask(digest="sha256:" + "0" * 64))).code == "model_not_found"


async def test_a_prompt_over_the_context_is_refused_before_it_is_accepted() -> None:
    backend = EchoBackend(EchoOptions(context_length=4))
    assert only_failure(await Site(backend).ask(ask(text="1 2 3 4 5"))).code == "context_length_exceeded"


async def test_a_draining_worker_refuses_what_comes_and_finishes_what_runs() -> None:
    async with gated_echo(hold_at=1) as (backend, gate, begun):
        site = Site(backend)
        running = await site.open(ask())
        await settle(lambda: begun == [0, 1])
        draining = asyncio.create_task(site.handler.drain(60))
        await asyncio.sleep(0)
        assert only_failure(await site.ask(ask())).code == "draining"
        assert not draining.done()
        gate.set()
        assert text_of(await events_of(running)) == "one two three"
        await settle(draining.done, ONE_STEP)


async def test_draining_ends_at_its_limit() -> None:
    async with gated_echo(hold_at=0) as (backend, _, begun):
        site = Site(backend)
        stream = await site.open(ask())
        await settle(lambda: begun == [0])
        await site.handler.drain(0.01)
        assert not site.is_free()
        stream.close()


async def test_an_idle_worker_has_drained_at_once() -> None:
    await Site(EchoBackend()).handler.drain(0)


# ---- clients that go away


@pytest.mark.parametrize("hold_at", [0, 1, 2])
async def test_a_client_that_goes_frees_its_slot_within_one_step(hold_at: int) -> None:
    async with gated_echo(hold_at) as (backend, _, begun):
        site = Site(backend, slots=1)
        stream = await site.open(ask())
        await settle(lambda: begun == list(range(hold_at + 1)))
        assert backend.running == 1
        stream.close()
        await settle(site.is_free, ONE_STEP)
        assert backend.running == 0
        assert begun == list(range(hold_at + 1))
        backend_again = await site.open(ask())
        assert isinstance(await first_event(backend_again), Accepted)
        backend_again.close()


async def test_a_client_that_goes_while_the_backend_never_waits_frees_its_slot() -> None:
    # Given a backend that has always more to say: nothing but the stream's end can stop it.
    site = Site(EchoBackend(EchoOptions(says="numbers", context_length=1 << 24)))
    stream = await site.open(ask(max_tokens=1 << 20))
    assert isinstance(await first_event(stream), Accepted)
    stream.close()
    await settle(site.is_free, max_turns=600)


@pytest.mark.parametrize(
    "sent", [b"", b"\0\0", framed(ask())[:-1]], ids=["nothing", "half a length", "all but one byte"]
)
async def test_a_client_that_goes_before_its_request_leaves_nothing(sent: bytes) -> None:
    site = Site(EchoBackend())
    stream = await site.open(*([sent] if sent else []))
    stream.close()
    assert await events_of(stream) == []
    assert site.is_free()


async def test_a_client_that_reads_nothing_loses_its_slot() -> None:
    # Given a client that never reads, and more to say than a stream and the reading ahead hold.
    backend = Scripted(Accepted(1), *[PART] * 1000, Finished("stop", Usage(1, 1)))
    site = Site(backend, slots=1, stall_s=0.03)
    stream = await site.open(ask())
    await settle(lambda: backend.running == 1)
    # When it has read nothing for `stall_s`, then its slot is free, and its stream ended without Finished.
    await asyncio.wait_for(site.meter.wait_idle(), 10)
    assert backend.running == 0
    assert not any(isinstance(event, Finished | Failed) for event in await events_of(stream))


async def test_a_backend_waits_for_a_slow_client() -> None:
    # One batch is in the stream, one waits to be written, one waits to be taken.
    backend = Scripted(Accepted(1), *[PART] * 2000, Finished("stop", Usage(1, 1)))
    stream = await Site(backend).open(ask())
    for _ in range(300):
        await asyncio.sleep(0)
    assert backend.given <= 3 * READ_AHEAD_EVENTS
    assert len(text_of(await events_of(stream))) == 2000 * len(PART.text)


# ---- clients that break the protocol

BAD_REQUESTS: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "an oversized length": (MAX_REQUEST_FRAME_BYTES + 1).to_bytes(4, "big"),
    "the largest length": b"\xff\xff\xff\xff",
    "an empty frame": bytes(4),
    "junk in a frame": (1000).to_bytes(4, "big") + random.Random(1).randbytes(1000),
    "nesting": (100_000).to_bytes(4, "big") + b"\x91" * 100_000,
    "an event": encode_frame(Accepted(1), 1000),
    "two requests": framed(ask()) * 2,
    "a request and a half": framed(ask()) + framed(ask())[:9],
    "a byte after the request": framed(ask()) + b"\0",
}


@pytest.mark.parametrize("data", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_a_bad_request_is_a_violation_and_costs_no_compute(data: bytes) -> None:
    backend = Scripted(Accepted(1), Finished("stop", Usage(1, 1)))
    site = Site(backend)
    assert only_failure(await site.ask(data)).code == "protocol_violation"
    assert backend.given == 0
    assert site.is_free()


async def test_bytes_while_an_answer_is_under_way_stop_it() -> None:
    async with gated_echo(hold_at=1) as (backend, _, begun):
        site = Site(backend)
        stream = await site.open(ask())
        await settle(lambda: begun == [0, 1])
        await stream.write(b"more")
        accepted, *_, failure = await events_of(stream)
        assert isinstance(accepted, Accepted)
        assert isinstance(failure, Failed) and failure.code == "protocol_violation"
        assert backend.running == 0
        assert site.is_free()


async def test_a_slow_request_is_given_up_and_holds_no_slot_meanwhile() -> None:
    site = Site(EchoBackend(), slots=1, request_s=0.05)
    slow = await site.open(framed(ask())[:10])
    assert text_of(await site.ask(ask())) == "one two three"
    assert only_failure(await events_of(slow)).code == "protocol_violation"


# ---- backends that break

SECRET = "/home/volunteer/secret.py"

BREAKS: dict[str, Callable[[], BaseException]] = {
    "a bug": lambda: ZeroDivisionError(SECRET),
    "a missing key": lambda: KeyError(SECRET),
    "no memory": lambda: MemoryError(SECRET),
    "recursion": lambda: RecursionError(SECRET),
    "a timeout": lambda: TimeoutError(SECRET),
    "an error of the system": lambda: OSError(28, "No space left", SECRET),
    "text that cannot be encoded": lambda: UnicodeEncodeError("utf-8", "\ud800", 0, 1, SECRET),
    "an end that is none": lambda: StopAsyncIteration(SECRET),
    "a cancellation of its own": lambda: asyncio.CancelledError(SECRET),
    "an exception group": lambda: ExceptionGroup(SECRET, [ValueError(SECRET)]),
}


@pytest.mark.parametrize("make", BREAKS.values(), ids=BREAKS)
@pytest.mark.parametrize("before", [(), (Accepted(1),), (Accepted(1), TextDelta("a"))], ids=["first", "then", "later"])
async def test_a_backend_s_bug_is_a_failure_that_tells_nothing(
    make: Callable[[], BaseException], before: tuple[BackendEvent, ...]
) -> None:
    site = Site(Scripted(*before, make()))
    *events, failure = await site.ask(ask())
    assert text_of(events) == text_of(list(before))
    assert isinstance(failure, Failed)
    assert (failure.code, failure.message) == ("worker_failed", "the worker failed")
    assert site.is_free()


@pytest.mark.parametrize(
    ("error", "code", "param"),
    [
        (InvalidRequest("no such role", "messages"), "invalid_request", "messages"),
        (ContextOverflow("too long"), "context_length_exceeded", None),
        (WorkerFailed("out of memory"), "worker_failed", None),
    ],
)
async def test_what_a_backend_raises_on_purpose_is_told(error: Exception, code: str, param: str | None) -> None:
    assert only_failure(await Site(Scripted(error)).ask(ask())) == Failed(code, str(error), param)


async def test_a_long_message_is_cut_so_that_its_frame_fits() -> None:
    failure = only_failure(await Site(Scripted(InvalidRequest("🙂" * 100_000))).ask(ask()))
    assert failure.code == "invalid_request"
    assert 100 < len(failure.message) <= 2048


DISORDER: dict[str, tuple[Step, ...]] = {
    "no event": (),
    "no Finished": (Accepted(1), TextDelta("a")),
    "a delta first": (TextDelta("a"), Finished("stop", Usage(1, 1))),
    "Finished first": (Finished("stop", Usage(1, 1)),),
    "Accepted twice": (Accepted(1), Accepted(1)),
    "a delta that no frame holds": (Accepted(1), TextDelta("a" * MAX_EVENT_FRAME_BYTES), Finished("stop", Usage(1, 1))),
    "text that is no Unicode": (Accepted(1), TextDelta("\ud800"), Finished("stop", Usage(1, 1))),
    "a negative id": (Accepted(1), TextDelta("a", (-1 << 70,)), Finished("stop", Usage(1, 1))),
}


@pytest.mark.parametrize("steps", DISORDER.values(), ids=DISORDER)
async def test_a_disorderly_backend_never_looks_complete(steps: tuple[Step, ...]) -> None:
    site = Site(Scripted(*steps))
    *_, failure = events = await site.ask(ask())
    assert isinstance(failure, Failed) and failure.code in ("worker_failed", "protocol_violation")
    assert not any(isinstance(event, Finished) for event in events)
    assert site.is_free()


async def test_a_worker_goes_on_after_every_failure() -> None:
    steps: list[Any] = [Accepted(1), ZeroDivisionError()]
    site = Site(Scripted(*steps), slots=1)
    for _ in range(5):
        *_, failure = await site.ask(ask())
        assert isinstance(failure, Failed) and failure.code == "worker_failed"
    assert site.meter.requests_served == 0


async def test_streams_without_a_request_are_bounded() -> None:
    """The oldest goes, and is told so."""
    site = Site(EchoBackend())
    waiting = [await site.open() for _ in range(MAX_UNREAD_REQUESTS)]
    await settle(lambda: site.handler.unread == MAX_UNREAD_REQUESTS)
    assert text_of(await site.ask(ask())) == "one two three"
    assert only_failure(await events_of(waiting.pop(0))).code == "busy"
    assert site.handler.unread == len(waiting)
    for stream in waiting:
        stream.close()
    await settle(lambda: site.handler.unread == 0)
    assert isinstance((await site.ask(ask()))[-1], Finished)


async def test_scores_of_what_was_resumed_come_first_and_no_receipt_counts_them() -> None:
    scored, delta = Scored.of((0.0, 0.25)), TextDelta("a", (1,))
    site = Site(Scripted(Accepted(3), scored, delta, DONE))
    site.handler.signer = Signer(peer("worker"), site.clock, drop)
    events = await site.ask(ask(resume_tokens=(5, 6), score_resume=True))
    assert events[1:3] == [scored, delta]
    finished = events[-1]
    assert isinstance(finished, Finished) and finished.receipt is not None
    assert open_statement(finished.receipt, Receipt).tokens == 1
