"""Defines the request for vectors and what comes back, as `messages` does it for a generation.

These structs are the wire's types, so fields are only ever added, each with a default.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pnet.messages import Accepted, Digest, Failed, Finished, ModelId, TextPrompt, TokenPrompt

MAX_EMBED_INPUTS = 2048
"""As OpenAI has it."""

MAX_DIMENSIONS = 1 << 14
"""Four times the largest models in use; one vector of it fits a frame."""


class EmbedRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="embed"):
    """Texts, or token ids, of which each becomes a vector. `dimensions` cuts the vectors short and normalises again;
    `truncate` reads a text that is too long as far as the context goes, instead of refusing it. `keep_stream` says that
    another request may follow on this stream."""

    request_id: Annotated[str, Meta(min_length=1, max_length=128)]
    model: ModelId
    inputs: Annotated[tuple[TextPrompt | TokenPrompt, ...], Meta(min_length=1, max_length=MAX_EMBED_INPUTS)]
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    digest: Digest | None = None
    truncate: bool = True
    keep_stream: bool = False


class Embedding(msgspec.Struct, frozen=True, tag="embedding"):
    """The vector of one input: float32, little-endian."""

    index: Annotated[int, Meta(ge=0, lt=MAX_EMBED_INPUTS)]
    vector: Annotated[bytes, Meta(min_length=4, max_length=4 * MAX_DIMENSIONS)]


EmbedEvent = Accepted | Embedding | Finished | Failed
"""What comes back: Accepted, Embedding once for each input in any order, then Finished; or Failed at any point."""
