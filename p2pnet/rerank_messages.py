"""Defines the request to rank documents by a query and what comes back, as `messages` does it for a generation.

These structs are the wire's types, so fields are only ever added, each with a default.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pnet.messages import Accepted, Digest, Failed, Finished, ModelId

MAX_DOCUMENTS = 1024
"""Cohere recommends no more than 1,000, and each costs a forward pass."""


class RerankRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="rerank"):
    """A query, and documents that may answer it. What of a pair is beyond the model's context is not read.
    `keep_stream` says that another request may follow on this stream."""

    request_id: Annotated[str, Meta(min_length=1, max_length=128)]
    model: ModelId
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    digest: Digest | None = None
    keep_stream: bool = False


class Relevance(msgspec.Struct, frozen=True, tag="relevance"):
    """How well a document answers the query: the more the better, on the model's own scale, mostly from 0 to 1."""

    index: Annotated[int, Meta(ge=0, lt=MAX_DOCUMENTS)]
    score: float


RerankEvent = Accepted | Relevance | Finished | Failed
"""What comes back: Accepted, Relevance once for each document in any order, then Finished; or Failed at any point."""
