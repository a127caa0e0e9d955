"""A generation under a test's control: a script of events, errors and gates. Counts what is opened and closed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from gateway.http.server import HttpServer
from gateway.interface import Caller, EmbeddingEvent, GenerationEvent, ModelEntry
from gateway.service import GatewayService
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta, Usage

DIGEST = "sha256:" + "ab" * 32

Step = GenerationEvent | Exception | asyncio.Event
Script = Callable[[GenerateRequest], Iterable[Step]]
Serve = Callable[..., Awaitable[HttpServer]]


def answer(*texts: str, reason: str = "stop") -> list[Step]:
    """A whole generation: accepted, these texts, finished."""
    deltas = [TextDelta(text) for text in texts]
    return [Accepted(7, DIGEST), *deltas, Finished("length" if reason == "length" else "stop", Usage(7, len(texts)))]


class FakeGenerate:
    """Plays `script` for each request: yields events, raises errors, waits at events of asyncio."""

    def __init__(self, *steps: Step) -> None:
        self.script: Script = lambda _: steps
        self.requests: list[GenerateRequest] = []
        self.callers: list[Caller] = []
        self.yielded = 0
        self.opened = 0
        self.closed = 0
        self.is_waiting = asyncio.Event()
        self.has_closed = asyncio.Event()

    async def __call__(self, request: GenerateRequest, caller: Caller) -> AsyncGenerator[GenerationEvent, None]:
        self.requests.append(request)
        self.callers.append(caller)
        self.opened += 1
        try:
            for step in self.script(request):
                if isinstance(step, asyncio.Event):
                    self.is_waiting.set()
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    self.yielded += 1
                    yield step
        finally:
            self.closed += 1
            self.has_closed.set()


async def fake_embed(request: EmbedRequest, caller: Caller) -> AsyncGenerator[EmbeddingEvent, None]:
    """One vector for each input: its index, and 0.5."""
    yield Accepted(len(request.inputs), DIGEST)
    for index in reversed(range(len(request.inputs))):
        yield Embedding(index, struct.pack("<2f", index, 0.5))
    yield Finished("stop", Usage(len(request.inputs), 0))


def service(generate: FakeGenerate, is_ready: bool = True) -> GatewayService:
    """A service with one model, a clock that stands still, and ids and seeds that are known."""
    models = [ModelEntry("tiny", 1_700_000_000, 2, 512, (DIGEST,)), ModelEntry("org/large", 1_700_000_001, 1)]
    return GatewayService(
        generate=generate,
        embed=fake_embed,
        list_models=lambda: models,
        is_ready=lambda: is_ready,
        now=lambda: 1_700_000_100.5,
        make_id=lambda: "0123",
        make_seed=lambda: 42,
    )
