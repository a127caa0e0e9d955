"""Parses the bodies of /v1/embeddings into an EmbedRequest, and renders its answer.

Knows nothing of HTTP.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec

from gateway.http.bodies import Body, out_of_bounds, validated
from gateway.http.collected import Embedded, numbers_of
from p2pnet.embed_messages import MAX_EMBED_INPUTS, EmbedRequest
from p2pnet.errors import InvalidRequest
from p2pnet.messages import TextPrompt, TokenPrompt


class EmbeddingBody(Body):
    model: str
    input: str | list[Any]
    encoding_format: str | None = None
    dimensions: int | None = None
    user: str | None = None
    truncate_prompt_tokens: int | None = None
    endianness: str | None = None
    embed_dtype: str | None = None

    @property
    def is_base64(self) -> bool:
        return self.encoding_format == "base64"


def parse_embedding(raw: bytes) -> EmbeddingBody:
    """Raises InvalidRequest, which names the field."""
    body = validated(EmbeddingBody, raw)
    if body.encoding_format not in (None, "float", "base64"):
        raise InvalidRequest("encoding_format: float or base64", "encoding_format")
    if body.truncate_prompt_tokens is not None:
        raise InvalidRequest(
            "truncate_prompt_tokens: not supported here; shorten the text, or let /api/embed do it",
            "truncate_prompt_tokens",
        )
    if body.endianness not in (None, "native", "little"):
        raise InvalidRequest("endianness: base64 is of little-endian numbers here", "endianness")
    if body.embed_dtype not in (None, "float32"):
        raise InvalidRequest("embed_dtype: float32", "embed_dtype")
    return body


def embed_request(body: EmbeddingBody, request_id: str) -> EmbedRequest:
    """One text, a list of texts, one text's token ids, or a list of those. Raises InvalidRequest, ModelNotFound."""
    fields = {
        "request_id": request_id,
        "model": body.model,
        "inputs": _inputs(body.input),
        "dimensions": body.dimensions,
        "truncate": False,  # OpenAI refuses a text that is too long
    }
    try:
        return msgspec.convert(fields, EmbedRequest)
    except msgspec.ValidationError as error:
        raise out_of_bounds(error, body.model, {}) from error


def render_embeddings(embedded: Embedded, model: str, is_base64: bool) -> bytes:
    """Vectors as lists of numbers, or as base64 of float32, little-endian, which is what OpenAI's clients ask for."""
    as_json = _base64 if is_base64 else numbers_of
    data = [
        {"object": "embedding", "index": index, "embedding": as_json(vector)}
        for index, vector in enumerate(embedded.vectors)
    ]
    tokens = embedded.finished.usage.prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def _base64(vector: bytes) -> str:
    return b64encode(vector).decode()


def _inputs(given: str | list[Any]) -> list[TextPrompt | TokenPrompt]:
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given or len(given) > MAX_EMBED_INPUTS:
        raise InvalidRequest(f"input: 1 to {MAX_EMBED_INPUTS} texts", "input")
    if "" in given:
        raise InvalidRequest("input: a text must not be empty", "input")
    try:
        return [
            TextPrompt(each) if isinstance(each, str) else msgspec.convert({"token_ids": each}, TokenPrompt)
            for each in given
        ]
    except msgspec.ValidationError as error:
        raise InvalidRequest("input: a text or a list of token ids, or a list of such", "input") from error
