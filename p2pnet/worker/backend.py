"""The Backend protocol: what a worker needs of whatever runs a model.

Knows nothing of the network: a backend is a class with one generator.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta
from p2pnet.records import ModelCard

BackendEvent = Accepted | TextDelta | Finished


class Backend(Protocol):
    """Runs one model, or several, for others."""

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """What it can run now, as it is announced."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """Serve one request: Accepted, TextDelta*, Finished.

        Raises RequestError before Accepted when the request cannot be honoured, before any compute; WorkerFailed
        later. Closing the iterator (or cancelling the task that reads it) stops the compute within one step.
        """

    async def close(self) -> None:
        """Free the models. No request is running any more."""
