"""A generation under a test's control: a script of events, errors and gates. Counts what is opened and closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from gateway.server import HttpServer
from gateway.service import GatewayService, GenerationEvent, ModelEntry
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
        self.yielded = 0
        self.opened = 0
        self.closed = 0
        self.is_waiting = asyncio.Event()
        self.has_closed = asyncio.Event()

    async def __call__(self, request: GenerateRequest) -> AsyncGenerator[GenerationEvent, None]:
        self.requests.append(request)
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


def service(generate: FakeGenerate, is_ready: bool = True) -> GatewayService:
    """A service with one model, a clock that stands still, and ids and seeds that are known."""
    models = [ModelEntry("tiny", 1_700_000_000, 2, 512, (DIGEST,)), ModelEntry("org/large", 1_700_000_001, 1)]
    return GatewayService(
        generate=generate,
        list_models=lambda: models,
        is_ready=lambda: is_ready,
        now=lambda: 1_700_000_100.5,
        make_id=lambda: "0123",
        make_seed=lambda: 42,
    )
