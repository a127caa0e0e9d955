"""Defines the Backend protocol: what a worker needs of whatever runs a model.

Knows nothing of the network: a backend is a class with one generator.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.messages import Accepted, Finished, GenerateRequest, Measure, TextDelta
from p2pnet.records import IncompleteModel, ModelCard
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.score_messages import Scored, ScoreRequest
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest

BackendEvent = Accepted | Scored | TextDelta | Finished
ScoreBackendEvent = Accepted | Scored | Finished
TokenizeBackendEvent = Accepted | Tokenized | Finished
RerankBackendEvent = Accepted | Relevance | Finished
EmbedBackendEvent = Accepted | Embedding | Finished

UNMEASURED = Measure()


@dataclass(frozen=True)
class BackendLoad:
    """What a backend knows of its own load: zeros where it does not know. See `messages.Load`."""

    kv_free_tokens: int = 0
    kv_total_tokens: int = 0
    decode_tokens_per_s: Measure = UNMEASURED
    prefill_tokens_per_s: Measure = UNMEASURED
    slots: int = 0
    """Requests of one model that it computes at the same time; more would wait where nobody sees them."""


class Backend(Protocol):
    """Runs one model, or several, for others."""

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """The models that it can run now, as they are announced. They may change at any time."""

    @property
    def load(self) -> BackendLoad:
        """How much room and speed it has now."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """Serve one request: Accepted, Scored* where `score_resume` asks for it, TextDelta*, Finished.

        Raises RequestError before Accepted when the request cannot be honoured, before any compute; WorkerFailed
        later. Closing the iterator (or cancelling the task that reads it) stops the compute within one step.
        """

    async def close(self) -> None:
        """Free the models. No request is running any more."""


@runtime_checkable
class ScoreBackend(Backend, Protocol):
    """A backend that can also say whether an answer of another worker's is what its own model gives."""

    def score(self, asked: ScoreRequest) -> AsyncGenerator[ScoreBackendEvent, None]:
        """Serve one request: Accepted, Scored until each token has its margin, Finished.

        Raises and is closed as `generate`. Whoever waits for an answer goes first.
        """


@runtime_checkable
class DriverBackend(Backend, Protocol):
    """A backend whose models' layers lie elsewhere."""

    @property
    def incomplete(self) -> tuple[IncompleteModel, ...]:
        """Its models that it cannot run now, since nobody has some of their layers. They may change at any time."""


@runtime_checkable
class TokenizeBackend(Backend, Protocol):
    """A backend that can also tell a prompt's tokens, of those of its models that have the feature."""

    def tokenize(self, asked: TokenizeRequest) -> AsyncGenerator[TokenizeBackendEvent, None]:
        """Serve one request: Accepted with the number of tokens, Tokenized as often as it takes, Finished.

        Raises and is closed as `generate`. Nothing is computed, so no one's answer waits for it.
        """


@runtime_checkable
class RerankBackend(Protocol):
    """Ranks documents for others."""

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """As for Backend. Their task is "embed", and they have the feature "rerank"."""

    @property
    def load(self) -> BackendLoad:
        """As for Backend. Reading a document is prefill."""

    def rerank(self, request: RerankRequest) -> AsyncGenerator[RerankBackendEvent, None]:
        """Serve one request: Accepted, Relevance once for each document in any order, Finished.

        Raises and is closed as `Backend.generate`.
        """

    async def close(self) -> None:
        """As for Backend."""


@runtime_checkable
class EmbedBackend(Protocol):
    """Turns texts into vectors for others."""

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """As for Backend. Their task is "embed"."""

    @property
    def load(self) -> BackendLoad:
        """As for Backend. Reading a text is prefill."""

    def embed(self, request: EmbedRequest) -> AsyncGenerator[EmbedBackendEvent, None]:
        """Serve one request: Accepted, Embedding once for each input in any order, Finished.

        Raises and is closed as `Backend.generate`.
        """

    async def close(self) -> None:
        """As for Backend."""
