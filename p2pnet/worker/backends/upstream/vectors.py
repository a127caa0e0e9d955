"""Asks servers of each kind for vectors, and reads what comes. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec

from p2pnet.embed_messages import MAX_DIMENSIONS, EmbedRequest
from p2pnet.errors import WorkerFailed
from p2pnet.messages import TextPrompt, TokenPrompt
from p2pnet.worker.backends.upstream.dialect import UpstreamCall
from p2pnet.worker.backends.upstream.offer import Offer
from p2pnet.worker.backends.upstream.ollama.models import KIND as OLLAMA
from p2pnet.worker.backends.upstream.openai.flavours import VLLM
from p2pnet.worker.backends.upstream.reading import decoded

EMBED_PATH = "/v1/embeddings"
OLLAMA_EMBED_PATH = "/api/embed"

INPUTS_AT_ONCE = 16
"""Of one call: others get their turn at the server in between, and an answer has a size that one can bound."""

MAX_VECTORS_BYTES = INPUTS_AT_ONCE * MAX_DIMENSIONS * 32
"""Of one answer: a number in JSON has some 20 characters, and stands on a line of its own at the most."""


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None


class _Vectors(msgspec.Struct):
    """`data` and `usage` are OpenAI's, the others Ollama's."""

    data: list[_Item] | None = None
    usage: _Counts | None = None
    embeddings: list[list[float]] | None = None
    prompt_eval_count: int | None = None


_decode_vectors = msgspec.json.Decoder(_Vectors).decode


@dataclass(frozen=True)
class Batch:
    """Some inputs of a request, from the one at `start` on, as they are asked for."""

    start: int
    inputs: int
    call: UpstreamCall


@dataclass(frozen=True)
class Vectors:
    """What the server gave for one batch: float32, little-endian, in the order of the inputs."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int | None


def batches(request: EmbedRequest, offer: Offer) -> Iterator[Batch]:
    """The calls that ask for all inputs. One call has texts or ids, never both."""
    start = 0
    for _, same in groupby(request.inputs, type):
        inputs = tuple(same)
        for begin in range(0, len(inputs), INPUTS_AT_ONCE):
            some = inputs[begin : begin + INPUTS_AT_ONCE]
            yield Batch(start + begin, len(some), _call(some, request.truncate, offer))
        start += len(inputs)


def parse_vectors(body: bytes, inputs: int, dimensions: int | None) -> Vectors:
    """The vectors of so many inputs, each cut to `dimensions` and normalised again if that is given. Raises
    WorkerFailed for what is not that."""
    said = decoded(_decode_vectors, body)
    if said.data is not None:
        items = sorted(said.data, key=lambda item: item.index)
        found, tokens = [item.embedding for item in items], said.usage.prompt_tokens if said.usage else None
    else:
        found, tokens = said.embeddings or [], said.prompt_eval_count
    if len(found) != inputs or len({len(vector) for vector in found}) != 1:
        raise WorkerFailed("the upstream server sent other vectors than it was asked for")
    return Vectors(tuple(_packed(vector, dimensions) for vector in found), tokens)


def has_vectors(body: bytes) -> bool:
    """Whether this is the vector of one input."""
    try:
        parse_vectors(body, 1, None)
    except WorkerFailed:
        return False
    return True


def _call(inputs: Sequence[TextPrompt | TokenPrompt], truncate: bool, offer: Offer) -> UpstreamCall:
    said = [given.text if isinstance(given, TextPrompt) else list(given.token_ids) for given in inputs]
    body: dict[str, Any] = {"model": offer.name, "input": said}
    if offer.flavour == OLLAMA:
        return UpstreamCall(OLLAMA_EMBED_PATH, body | {"truncate": truncate})
    if truncate and offer.flavour == VLLM.name:
        body["truncate_prompt_tokens"] = -1
    return UpstreamCall(EMBED_PATH, body | {"encoding_format": "float"})


def _packed(vector: list[float], dimensions: int | None) -> bytes:
    if dimensions is not None:
        vector = vector[:dimensions]
        length = math.hypot(*vector) or 1.0
        vector = [number / length for number in vector]
    if not 0 < len(vector) <= MAX_DIMENSIONS or not all(map(math.isfinite, vector)):
        raise WorkerFailed("the upstream server sent a vector that is none")
    try:
        return struct.pack(f"<{len(vector)}f", *vector)
    except OverflowError as error:
        raise WorkerFailed("the upstream server sent a vector of too large numbers") from error
