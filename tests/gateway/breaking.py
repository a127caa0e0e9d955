"""Workers that break their answers off, by a schedule: what a gateway has to make up for.

A break happens after so many events of an answer, so that a seed says exactly what happens. What happens then is seen
on the wire: the backend raises, the handler says so in a Failed frame, and the stream does something else instead.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import WorkerFailed
from p2pnet.features import LOGPROBS, RESUME
from p2pnet.messages import Accepted, Failed, Finished, GenerateRequest, TextDelta, Usage
from p2pnet.network.interface import Entry, Findings, Stream, StreamHandler
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.records import ModelCard
from p2pnet.wire.codec import MAX_EVENT_FRAME_BYTES, encode_frame, event_decoder
from p2pnet.worker.backend import Backend, BackendEvent, BackendLoad, EmbedBackend, EmbedBackendEvent

AT_THE_END = 1 << 30
"""After everything but Finished."""

TURNS_AWAY = 3
"""Turns of the event loop until a worker that disappeared is back, with nothing left of what it was doing."""


class How(Enum):
    """The ways in which an answer breaks off."""

    CLOSED = "the stream ends"
    FAILED = "the worker says that it failed"
    BUSY = "the worker says that it is busy"
    DRAINING = "the worker says that it stops"
    TOO_LARGE = "a frame of four gigabytes"
    GARBAGE = "a frame of nonsense"
    TRUNCATED = "half a frame"
    OUT_OF_TURN = "a frame that may not come now"
    NOT_THE_END = "an end, and more behind it"
    KILLED = "the peer disappears with all its streams"


BEFORE_ACCEPTED = (How.CLOSED, How.FAILED, How.BUSY, How.DRAINING, How.TOO_LARGE, How.GARBAGE, How.KILLED)


def _frame(message: object) -> bytes:
    return encode_frame(message, MAX_EVENT_FRAME_BYTES)


_NONSENSE = b"\xc1\xff\x00nonsense"
_ON_THE_WIRE = {
    How.FAILED: _frame(Failed("worker_failed", "the worker failed")),
    How.BUSY: _frame(Failed("busy", "all slots are taken")),
    How.DRAINING: _frame(Failed("draining", "this worker is stopping")),
    How.TOO_LARGE: b"\xff\xff\xff\xff" + _NONSENSE,
    How.GARBAGE: len(_NONSENSE).to_bytes(4, "big") + _NONSENSE,
    How.TRUNCATED: _frame(TextDelta("never said", (1, 2, 3)))[:-2],
    How.OUT_OF_TURN: _frame(Accepted(1)),
    How.NOT_THE_END: _frame(Finished("stop", Usage(1, 1))) + _frame(TextDelta("never said")),
}
_MARKS = {f"break: {how.value}": how for how in How}


def _mark_in(data: bytes) -> How | None:
    """Which break a frame stands for, if one."""
    if b"break: " not in data:
        return None
    events = event_decoder().feed(data)
    return next((_MARKS[event.message] for event in events if isinstance(event, Failed)), None)


@dataclass(frozen=True)
class Break:
    """`after` so many events, Accepted among them. It never gets as far as Finished."""

    how: How
    after: int


class Schedule:
    """The breaks of each request, by its id, in the order in which workers get it. `on_break` is told of each."""

    def __init__(self, on_break: Callable[[], None] = lambda: None) -> None:
        self.happened: Counter[How] = Counter()
        self.overtaken = 0
        """Answers that were to break off, and were told to stop before: on a slow machine their first token was late,
        a second worker was asked, and that one was sooner."""
        self._on_break = on_break
        self._planned: dict[str, deque[Break]] = {}

    def plan(self, request_id: str, breaks: Iterable[Break]) -> None:
        self._planned[request_id] = deque(breaks)

    async def followed(self, request_id: str, events: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """The events, up to the next break that is planned for this request."""
        planned = self._planned.get(request_id)
        following = planned.popleft() if planned else None
        given = 0
        try:
            async with aclosing(events):
                if following is not None and following.after == 0:
                    self._break(following)
                async for event in events:
                    if following is not None and (given == following.after or isinstance(event, Finished)):
                        self._break(following)
                    given += 1
                    yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.overtaken += following is not None
            raise

    def _break(self, following: Break) -> None:
        self.happened[following.how] += 1
        self._on_break()
        raise WorkerFailed(f"break: {following.how.value}")


class BreakingBackend:
    """Another backend, whose answers break off. That one is its owner's to close."""

    def __init__(self, inner: Backend, schedule: Schedule) -> None:
        self._inner = inner
        self._schedule = schedule
        self.running = 0
        self.resumed = 0
        """Requests that went on after tokens, or after a text."""

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return self._inner.models

    @property
    def load(self) -> BackendLoad:
        return self._inner.load

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        self.running += 1
        self.resumed += bool(request.resume_tokens or request.resume_text)
        try:
            async with aclosing(self._schedule.followed(request.request_id, self._inner.generate(request))) as events:
                async for event in events:
                    yield event
        finally:
            self.running -= 1

    async def close(self) -> None:
        """Nothing of its own."""


class BreakingEmbedder:
    """The same of a backend for vectors."""

    def __init__(self, inner: EmbedBackend, schedule: Schedule) -> None:
        self._inner = inner
        self._schedule = schedule
        self.running = 0
        self.asked: list[int] = []
        """How many inputs each request had."""

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return self._inner.models

    @property
    def load(self) -> BackendLoad:
        return self._inner.load

    async def embed(self, request: EmbedRequest) -> AsyncGenerator[EmbedBackendEvent, None]:
        self.running += 1
        self.asked.append(len(request.inputs))
        try:
            async with aclosing(self._schedule.followed(request.request_id, self._inner.embed(request))) as events:
                async for event in events:
                    yield event
        finally:
            self.running -= 1

    async def close(self) -> None:
        """Nothing of its own."""


class WithoutIds:
    """Another backend as a server elsewhere would be: it names no ids of tokens and cannot go on after any. `digest`
    is what it announces instead of the weights'. `lacks` are further features that it does not have."""

    def __init__(self, inner: Backend, digest: str | None = None, lacks: Sequence[str] = ()) -> None:
        self._inner = inner
        self._digest = digest
        self._lacks = {RESUME, LOGPROBS, *lacks}

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return tuple(
            msgspec.structs.replace(
                card,
                digest=self._digest or card.digest,
                features=tuple(feature for feature in card.features if feature not in self._lacks),
            )
            for card in self._inner.models
        )

    @property
    def load(self) -> BackendLoad:
        return BackendLoad()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        known = msgspec.structs.replace(request, digest=None)
        async with aclosing(self._inner.generate(known)) as events:
            async for event in events:
                if isinstance(event, Accepted):
                    yield msgspec.structs.replace(event, digest=self._digest or event.digest)
                elif not isinstance(event, TextDelta):
                    yield event
                elif event.text or event.tool_calls:
                    yield msgspec.structs.replace(event, token_ids=())

    async def close(self) -> None:
        """Nothing of its own."""


class _BreakingStream:
    """A stream that does what its worker's last frame only names."""

    def __init__(self, inner: Stream, network: BreakingNetwork) -> None:
        self._inner = inner
        self._network = network

    @property
    def peer_id(self) -> str:
        return self._inner.peer_id

    async def read(self) -> bytes:
        return await self._inner.read()

    async def write(self, data: bytes) -> None:
        how = _mark_in(data)
        if how is None:
            await self._inner.write(data)
        elif how is How.KILLED:
            self._network.vanish()
            await asyncio.Event().wait()
        else:
            await self._inner.write(_ON_THE_WIRE.get(how, b""))
            self._inner.close()

    def close(self) -> None:
        self._inner.close()


class BreakingNetwork:
    """A peer of a MemoryWorld whose streams break, and that may disappear for a moment."""

    def __init__(self, world: MemoryWorld, inner: MemoryNetwork) -> None:
        self._world = world
        self._inner = inner
        self._away: set[asyncio.Task[None]] = set()

    @property
    def peer_id(self) -> str:
        return self._inner.peer_id

    @property
    def open_streams(self) -> int:
        return self._inner.open_streams

    @property
    def is_direct(self) -> bool:
        return True

    async def record_addresses(self) -> tuple[str, ...]:
        return await self._inner.record_addresses()

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        async def serve(stream: Stream) -> None:
            await handler(_BreakingStream(stream, self))

        await self._inner.handle(protocol, serve)

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        return await self._inner.open_stream(peer_id, protocol, addresses)

    async def store(self, entries: Sequence[Entry]) -> int:
        return await self._inner.store(entries)

    async def fetch(self, keys: Sequence[str]) -> Findings:
        return await self._inner.fetch(keys)

    def held(self, key: str) -> int:
        return self._inner.held(key)

    async def wait_changed(self) -> None:
        await self._inner.wait_changed()

    async def close(self) -> None:
        await asyncio.gather(*self._away)
        await self._inner.close()

    def vanish(self) -> None:
        """Every stream ends, and for a moment nobody can reach it."""
        task = asyncio.create_task(self._be_away())
        self._away.add(task)
        task.add_done_callback(self._away.discard)

    async def _be_away(self) -> None:
        dying = asyncio.create_task(self._inner.kill())
        for _ in range(TURNS_AWAY):
            await asyncio.sleep(0)
        self._world.peers[self.peer_id] = self._inner
        await dying
