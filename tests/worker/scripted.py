"""Backends whose models, load and events are what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from p2pnet.embed_messages import EmbedRequest
from p2pnet.messages import Accepted, GenerateRequest
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendEvent, BackendLoad, EmbedBackendEvent
from tests.stories import card

Step = BackendEvent | BaseException | asyncio.Event


class Scripted:
    """Plays a script of events, errors and gates. Its models come and go as `models` is set."""

    def __init__(self, *steps: Step, models: tuple[ModelCard, ...] | None = None) -> None:
        self.steps = steps
        self.models = (card("echo"),) if models is None else models
        self.load = BackendLoad()
        self.given = 0
        self.running = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        self.running += 1
        try:
            for step in self.steps:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                else:
                    self.given += 1
                    yield step
        finally:
            self.running -= 1

    async def close(self) -> None:
        """Nothing to free."""


class Embedder:
    """Embeds with the models of a scripted backend."""

    def __init__(self, scripted: Scripted) -> None:
        self._scripted = scripted

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return self._scripted.models

    @property
    def load(self) -> BackendLoad:
        return self._scripted.load

    async def embed(self, request: EmbedRequest) -> AsyncGenerator[EmbedBackendEvent, None]:
        yield Accepted(1)

    async def close(self) -> None:
        """Nothing to free."""
