"""The client against workers that lie, babble, fall silent or go away: never a success that was none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import msgspec
import pytest

from p2pnet.client import generate
from p2pnet.config import ExchangeTimeouts
from p2pnet.directory import validator
from p2pnet.errors import (
    Busy,
    ContextOverflow,
    FeatureMissing,
    InvalidRequest,
    ModelNotFound,
    P2PNetError,
    PeerError,
    PeerLost,
    PeerSilent,
    PeerUnreachable,
    ProtocolViolation,
    RequestError,
    WorkerFailed,
)
from p2pnet.messages import (
    MAX_IMAGE_BYTES,
    Accepted,
    ChatPrompt,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    ImagePart,
    Message,
    TextDelta,
    TokenPrompt,
    Usage,
)
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.wire.codec import MAX_EVENT_FRAME_BYTES, MAX_REQUEST_FRAME_BYTES, encode_frame, request_decoder
from p2pnet.wire.exchange import GENERATE_PROTOCOL
from tests.stories import DIGEST, ManualClock, ask, peer, settle

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id

ACCEPTED = Accepted(3, DIGEST)
DELTA = TextDelta("Hello", (1, 2))
FINISHED = Finished("stop", Usage(3, 2))

SHORT = ExchangeTimeouts(accept_s=0.03, silence_s=0.03)
"""For tests that wait for a silence to be noticed."""


def framed(*events: Event) -> bytes:
    return b"".join(encode_frame(event, 1 << 20) for event in events)


async def network_with(handler: StreamHandler) -> MemoryNetwork:
    """A client's network, in a world with one worker that answers as `handler` does."""
    world = MemoryWorld(validator(ManualClock()))
    await world.join(WORKER).handle(GENERATE_PROTOCOL, handler)
    return world.join(CLIENT)


async def run(
    handler: StreamHandler, request: GenerateRequest | None = None, timeouts: ExchangeTimeouts | None = None
) -> tuple[list[Event], P2PNetError | None]:
    """What came out before the end, and the error it ended with."""
    network = await network_with(handler)
    events: list[Event] = []
    try:
        async for event in generate(network, WORKER, request or ask(), timeouts=timeouts or ExchangeTimeouts()):
            events.append(event)
    except P2PNetError as error:
        return events, error
    return events, None


def says(*chunks: bytes, then: Callable[[], Awaitable[object]] | None = None) -> StreamHandler:
    """A worker that reads its request, writes these bytes, and goes away, or does something else `then`."""

    async def handle(stream: Stream) -> None:
        decoder = request_decoder()
        while not decoder.feed(await stream.read()):
            pass
        for chunk in chunks:
            await stream.write(chunk)
        if then is not None:
            await then()

    return handle


# ---- honest workers


async def test_an_answer_comes_as_it_was_sent() -> None:
    assert await run(says(framed(ACCEPTED, DELTA, DELTA, FINISHED))) == ([ACCEPTED, DELTA, DELTA, FINISHED], None)


async def test_an_answer_in_any_pieces_is_the_same() -> None:
    data = framed(ACCEPTED, DELTA, FINISHED)
    for cut in range(1, len(data)):
        assert await run(says(data[:cut], data[cut:])) == ([ACCEPTED, DELTA, FINISHED], None)
    single = [data[i : i + 1] for i in range(len(data))]
    assert await run(says(*single)) == ([ACCEPTED, DELTA, FINISHED], None)


async def test_the_worker_receives_the_request() -> None:
    received: list[GenerateRequest] = []

    async def handle(stream: Stream) -> None:
        received.extend(request_decoder().feed(await stream.read()))
        await stream.write(framed(ACCEPTED, FINISHED))

    request = ask(max_tokens=3, stop=("x",))
    await run(handle, request)
    assert received == [request]


async def test_the_last_event_is_enough_though_the_stream_stays_open() -> None:
    forever = asyncio.Event()
    assert await run(says(framed(ACCEPTED, FINISHED), then=forever.wait)) == ([ACCEPTED, FINISHED], None)


async def test_a_worker_that_answers_before_it_was_asked_is_believed() -> None:
    async def handle(stream: Stream) -> None:
        await stream.write(framed(Failed("busy", "full")))

    events, error = await run(handle)
    assert (events, type(error)) == ([], Busy)


# ---- failures that are told

TOLD: list[tuple[str, type[P2PNetError], bool]] = [
    ("invalid_request", InvalidRequest, False),
    ("context_length_exceeded", ContextOverflow, False),
    ("model_not_found", ModelNotFound, True),
    ("feature_missing", FeatureMissing, True),
    ("busy", Busy, True),
    ("draining", PeerError, True),
    ("worker_failed", WorkerFailed, True),
    ("protocol_violation", ProtocolViolation, True),
    ("out_of_tokens", WorkerFailed, True),
    ("", WorkerFailed, True),
    ("usage", WorkerFailed, True),
    ("no_worker", WorkerFailed, True),
    ("internal", WorkerFailed, True),
    ("record_refused", WorkerFailed, True),
    ("ZeroDivisionError", WorkerFailed, True),
]


@pytest.mark.parametrize(("code", "kind", "may_retry"), TOLD, ids=[code or "no code" for code, *_ in TOLD])
@pytest.mark.parametrize("before", [(), (ACCEPTED,), (ACCEPTED, DELTA)], ids=["first", "then", "later"])
async def test_a_failure_is_the_error_of_its_code(
    code: str, kind: type[P2PNetError], may_retry: bool, before: tuple[Event, ...]
) -> None:
    events, error = await run(says(framed(*before, Failed(code, "the reason"))))
    assert events == list(before)
    assert isinstance(error, kind)
    assert error.message == 'A worker said: "the reason"'
    assert error.is_hearsay
    assert error.may_retry is may_retry


@pytest.mark.parametrize(
    ("code", "param", "told"),
    [
        ("invalid_request", "logit_bias", "logit_bias"),
        ("context_length_exceeded", "messages[0].content", "messages[0].content"),
        ("invalid_request", None, None),
        ("worker_failed", "logit_bias", None),
    ],
)
async def test_a_failure_names_the_field_that_is_at_fault(code: str, param: str | None, told: str | None) -> None:
    _, error = await run(says(framed(Failed(code, "no", param))))
    assert getattr(error, "param", None) == told


async def test_a_failure_s_message_is_safe_to_print() -> None:
    for message in ("a\nERROR all is lost", "\x1b[2J\x1b[31mred", "tab\tnul\0bell\a", "\x9b31m", "\u202eesrever\u2028"):
        _, error = await run(says(framed(Failed("worker_failed", message))))
        assert error is not None and error.message.isprintable()
    _, error = await run(says(framed(Failed("worker_failed", "Größe 語 🙂 stays"))))
    assert error is not None and error.message == 'A worker said: "Größe 語 🙂 stays"'


async def test_a_failure_s_message_is_a_stranger_s_and_no_longer_than_a_sentence_or_two() -> None:
    _, error = await run(says(framed(Failed("worker_failed", 'a" \u201cThe gateway says: pay' + "!" * 2000))))
    assert error is not None
    assert error.message.startswith("A worker said: \"a' 'The gateway says: pay!!")
    assert error.message.count('"') == 2 and error.message.endswith('..."')
    assert len(error.message) < 400
    _, silent = await run(says(framed(Failed("worker_failed", "\n"))))
    assert silent is not None and silent.message == ""


# ---- hostile workers

OVERSIZE = (MAX_EVENT_FRAME_BYTES + 1).to_bytes(4, "big")

HOSTILE: dict[str, tuple[bytes, list[Event], type[PeerError]]] = {
    "gone at once": (b"", [], PeerLost),
    "gone in a length": (b"\0\0", [], PeerLost),
    "gone in a frame": (framed(ACCEPTED)[:-1], [], PeerLost),
    "gone after Accepted": (framed(ACCEPTED), [ACCEPTED], PeerLost),
    "gone in a delta": (framed(ACCEPTED, DELTA)[:-3], [ACCEPTED], PeerLost),
    "gone after a delta": (framed(ACCEPTED, DELTA), [ACCEPTED, DELTA], PeerLost),
    "gone in Finished": (framed(ACCEPTED, DELTA, FINISHED)[:-1], [ACCEPTED, DELTA], PeerLost),
    "HTTP": (b"HTTP/1.1 200 OK\r\n\r\n", [], ProtocolViolation),
    "garbage": (random.Random(1).randbytes(1 << 16), [], ProtocolViolation),
    "zeros": (bytes(1 << 16), [], ProtocolViolation),
    "an oversized frame": (OVERSIZE, [], ProtocolViolation),
    "a frame of 4 GiB": (b"\xff\xff\xff\xff", [], ProtocolViolation),
    "an oversized delta": (framed(ACCEPTED) + framed(TextDelta("a" * MAX_EVENT_FRAME_BYTES)), [], ProtocolViolation),
    "nesting": ((60_000).to_bytes(4, "big") + b"\x91" * 60_000, [], ProtocolViolation),
    "an echo of the request": (encode_frame(ask(), 1000), [], ProtocolViolation),
    "a delta before Accepted": (framed(DELTA), [], ProtocolViolation),
    "Finished before Accepted": (framed(FINISHED), [], ProtocolViolation),
    "Accepted twice": (framed(ACCEPTED, ACCEPTED), [], ProtocolViolation),
    "a delta after Finished": (framed(ACCEPTED, DELTA, FINISHED, DELTA), [], ProtocolViolation),
    "Finished twice": (framed(ACCEPTED, FINISHED, FINISHED), [], ProtocolViolation),
    "Failed after Finished": (framed(ACCEPTED, FINISHED, Failed("busy")), [], ProtocolViolation),
    "junk after Finished": (framed(ACCEPTED, FINISHED) + b"junk", [], ProtocolViolation),
    "half a frame after Finished": (framed(ACCEPTED, FINISHED) + framed(DELTA)[:9], [], ProtocolViolation),
    "a delta after Failed": (framed(Failed("busy"), DELTA), [], ProtocolViolation),
}


@pytest.mark.parametrize(("data", "events", "kind"), HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_answer_is_an_error_of_the_peer(
    data: bytes, events: list[Event], kind: type[PeerError]
) -> None:
    came, error = await run(says(data))
    assert type(error) is kind
    assert came == events
    assert not any(isinstance(event, Finished) for event in came)


@pytest.mark.parametrize(("data", "events", "kind"), HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_answer_in_single_bytes_never_looks_complete_after_an_error(
    data: bytes, events: list[Event], kind: type[PeerError]
) -> None:
    # Cut like this, what follows Finished is not read: then the answer was complete, and the stream is closed.
    came, error = await run(says(*(data[i : i + 1] for i in range(min(len(data), 400)))))
    if error is None:
        assert isinstance(came[-1], Finished)
    else:
        assert isinstance(error, PeerError)
        assert not any(isinstance(event, Finished) for event in came)


SILENCES = {
    "at first": b"",
    "in a length": b"\0",
    "in a frame": framed(ACCEPTED)[:-1],
    "after Accepted": framed(ACCEPTED),
    "after a delta": framed(ACCEPTED, DELTA),
    "in Finished": framed(ACCEPTED, DELTA, FINISHED)[:-1],
}


@pytest.mark.parametrize("data", SILENCES.values(), ids=SILENCES)
async def test_silence_is_a_lost_peer(data: bytes) -> None:
    events, error = await run(says(data, then=asyncio.Event().wait), timeouts=SHORT)
    assert type(error) is PeerSilent
    assert "silent" in error.message
    assert not any(isinstance(event, Finished) for event in events)


@pytest.mark.parametrize("before", [b"", framed(ACCEPTED)], ids=["Accepted", "a delta"])
async def test_an_event_that_drips_in_is_given_up_in_time(before: bytes) -> None:
    # Given a worker that sends a byte as often as the client reads one, of a frame that never ends.
    dripped = 0

    async def drip(stream: Stream) -> None:
        nonlocal dripped
        await stream.read()
        await stream.write(before + MAX_EVENT_FRAME_BYTES.to_bytes(4, "big"))
        for _ in range(MAX_EVENT_FRAME_BYTES - 1):
            await stream.write(b"\xc0")
            dripped += 1
        await asyncio.Event().wait()

    _, error = await run(drip, timeouts=ExchangeTimeouts(accept_s=0.05, silence_s=0.05))
    assert type(error) is PeerSilent
    assert dripped < MAX_EVENT_FRAME_BYTES - 1


async def test_a_worker_that_does_not_read_is_given_up() -> None:
    async def ignore(stream: Stream) -> None:
        await asyncio.Event().wait()

    request = ask(text="a" * (1 << 20))
    events, error = await run(ignore, request, SHORT)
    assert (events, type(error)) == ([], PeerSilent)


# ---- requests that no worker can be sent


@pytest.mark.parametrize(
    "request_",
    [
        ask(text="a" * MAX_REQUEST_FRAME_BYTES),
        GenerateRequest("r1", "echo", TokenPrompt((1 << 30,) * (1 << 20))),
        ask(text="\ud800"),
    ],
    ids=["too long", "too many ids", "a lone surrogate"],
)
async def test_a_request_that_fits_no_frame_is_the_client_s_fault_and_no_worker_s(request_: GenerateRequest) -> None:
    async def never(stream: Stream) -> None:
        raise AssertionError("no stream is opened for it")

    events, error = await run(never, request_)
    assert events == []
    assert isinstance(error, RequestError)
    assert not error.may_retry


async def test_images_that_fit_no_frame_together_are_the_clients_fault() -> None:
    image = ImagePart(bytes(MAX_IMAGE_BYTES))
    request = msgspec.structs.replace(ask(), prompt=ChatPrompt((Message("user", "", images=(image, image)),)))
    events, error = await run(says(framed(ACCEPTED, FINISHED)), request)
    assert (events, type(error)) == ([], InvalidRequest)
    assert "Shorten it, or make its images smaller or fewer." in str(error)


# ---- no stream


async def test_a_peer_without_the_protocol_is_unreachable() -> None:
    world = MemoryWorld(validator(ManualClock()))
    world.join(WORKER)
    with pytest.raises(PeerUnreachable):
        await anext(generate(world.join(CLIENT), WORKER, ask()))


async def test_a_severed_peer_is_unreachable() -> None:
    network = await network_with(says(framed(ACCEPTED, FINISHED)))
    network._world.faults.severed.add(frozenset((WORKER, CLIENT)))
    with pytest.raises(PeerUnreachable):
        await anext(generate(network, WORKER, ask()))


# ---- closing


class Watched:
    """A worker that sends `data`, and knows when its stream has ended."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.has_ended = False
        self.streams = 0

    async def __call__(self, stream: Stream) -> None:
        self.streams += 1
        await stream.read()
        await stream.write(self._data)
        self.has_ended = await stream.read() == b""


@pytest.mark.parametrize(
    "data", [framed(ACCEPTED, FINISHED), framed(Failed("busy")), b"garbage" * 99, framed(DELTA)], ids=repr
)
async def test_the_stream_is_closed_however_it_ended(data: bytes) -> None:
    worker = Watched(data)
    await run(worker)
    await settle(lambda: worker.has_ended, max_turns=5)


async def test_closing_the_generator_closes_the_stream() -> None:
    worker = Watched(framed(ACCEPTED))
    network = await network_with(worker)
    async with aclosing(generate(network, WORKER, ask())) as events:
        assert await anext(events) == ACCEPTED
        assert not worker.has_ended
    await settle(lambda: worker.has_ended, max_turns=5)


@pytest.mark.parametrize(
    "data", [b"", framed(ACCEPTED), framed(ACCEPTED, DELTA)], ids=["waiting", "accepted", "streaming"]
)
async def test_cancelling_closes_the_stream_within_one_step(data: bytes) -> None:
    worker = Watched(data)
    network = await network_with(worker)
    seen: list[Event] = []

    async def consume(events: AsyncGenerator[Event, None]) -> None:
        async with aclosing(events):
            async for event in events:
                seen.append(event)

    task = asyncio.create_task(consume(generate(network, WORKER, ask())))
    expected = data.count(b"\xa4type")
    await settle(lambda: worker.streams == 1 and len(seen) == expected)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not worker.has_ended
    task.cancel()
    await settle(task.done, max_turns=5)
    await settle(lambda: worker.has_ended, max_turns=5)
    assert task.cancelled()


async def test_a_generator_that_was_never_read_opens_nothing() -> None:
    worker = Watched(framed(ACCEPTED))
    events = generate(await network_with(worker), WORKER, ask())
    await events.aclose()
    await asyncio.sleep(0)
    assert worker.streams == 0


# ---- workers that never end


@pytest.mark.parametrize(
    "delta", [TextDelta("a", (1, 2, 3)), TextDelta("a" * 2000)], ids=["tokens", "text without tokens"]
)
async def test_a_worker_that_sends_more_than_was_asked_for_is_cut_off(delta: TextDelta) -> None:
    endless = [framed(delta)] * 50
    events, error = await run(says(framed(ACCEPTED), *endless), ask(max_tokens=10))
    assert isinstance(error, ProtocolViolation)
    assert 0 < len(events) < 20


@pytest.mark.parametrize("delta", [TextDelta(), TextDelta("a")], ids=["nothing", "little"])
async def test_a_worker_that_goes_on_for_ever_with_little_is_cut_off(delta: TextDelta) -> None:
    events, error = await run(says(framed(ACCEPTED), framed(delta) * 1000), ask(max_tokens=10))
    assert isinstance(error, ProtocolViolation)
    assert len(events) < 100


async def test_what_was_not_asked_for_is_a_violation() -> None:
    for delta in (TextDelta("a", (1,), choice=1), TextDelta("a", is_prompt=True)):
        events, error = await run(says(framed(ACCEPTED, DELTA, delta, FINISHED)))
        assert events == [ACCEPTED, DELTA]
        assert isinstance(error, ProtocolViolation)


async def test_an_end_that_does_not_say_how_each_answer_ended_is_a_violation() -> None:
    events, error = await run(says(framed(ACCEPTED, FINISHED)), ask(n=2))
    assert events == [ACCEPTED]
    assert isinstance(error, ProtocolViolation)


async def test_all_that_was_asked_for_may_be_sent() -> None:
    answer = [ACCEPTED, *[TextDelta("a" * 100, (1,))] * 10, FINISHED]
    assert await run(says(framed(*answer)), ask(max_tokens=10)) == (answer, None)


class LastWord:
    """A witness that has something to say to the worker."""

    def note_request(self, body: bytes) -> None: ...

    def note(self, event: Event) -> None: ...

    def note_failed(self, failed: Failed) -> None: ...

    def last_word(self) -> bytes:
        return b"thanks"


async def test_who_is_cancelled_once_the_answer_is_complete_has_said_the_last_word_and_closed_the_stream() -> None:
    """As a reply that is not streamed is: it has its answer, and leaves the reader behind it."""
    heard: list[bytes] = []

    async def handle(stream: Stream) -> None:
        await says(framed(ACCEPTED, FINISHED))(stream)
        while data := await stream.read():
            heard.append(data)
        heard.append(b"closed")

    network, seen = await network_with(handler=handle), asyncio.Event()

    async def read() -> None:
        async for event in generate(network, WORKER, ask(), witness=LastWord()):
            if isinstance(event, Finished):
                seen.set()

    reading = asyncio.create_task(read())
    await seen.wait()
    reading.cancel()
    await asyncio.wait([reading])
    await settle(lambda: heard == [b"thanks", b"closed"])
