"""Reads log-probabilities as OpenAI and Ollama write them: token, bytes, alternatives. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from p2pnet.messages import TokenLogprob, TopLogprob

MAX_TOKEN_BYTES = 512
"""The longest tokens in use are runs of a few hundred spaces or dashes."""

MAX_TOKEN_ID = 1 << 31


class Alternative(msgspec.Struct):
    """Another token in the same position. Only llama.cpp tells its `id`."""

    token: str = ""
    logprob: float | None = None
    bytes: list[int] | None = None
    id: int = 0


class Token(Alternative):
    top_logprobs: list[Alternative] | None = None


def token_logprobs(tokens: Sequence[Token], top: int) -> Iterator[TokenLogprob]:
    """Our entries, with as many alternatives as were asked for. The id is 0 where the server tells none."""
    for token in tokens:
        others = tuple(top_logprob(other) for other in (token.top_logprobs or [])[:top])
        yield TokenLogprob(_id(token.id), _bytes(token), token.logprob, others)


def top_logprob(token: Alternative) -> TopLogprob:
    return TopLogprob(_id(token.id), _bytes(token), 0.0 if token.logprob is None else token.logprob)


def _id(token_id: int) -> int:
    return token_id if 0 <= token_id < MAX_TOKEN_ID else 0


def _bytes(token: Alternative) -> bytes:
    """The token's bytes, as the server tells them if it does: a token need not be whole characters."""
    if token.bytes and all(0 <= byte < 256 for byte in token.bytes):
        return bytes(token.bytes[:MAX_TOKEN_BYTES])
    return token.token.encode("utf-8", "replace")[:MAX_TOKEN_BYTES]
