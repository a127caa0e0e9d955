"""Canonical requests and events: the one form of a generation that surfaces, wire and backends all speak.

These structs are the wire's types, so fields are only ever added, each with a default. Knows nothing of HTTP dialects,
frames or sockets.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_TOKENS_LIMIT = 1 << 20
"""No model generates a million tokens in one request; beyond it a number is a mistake or an attack."""

MAX_STOP_STRINGS = 16
MAX_MESSAGES = 4096
"""A chat of more turns than this is a loop; the frame's size cap bounds their text."""

ModelId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*\Z")]
"""What a model is called on the network: printable, no spaces, safe in URLs, logs and terminals."""

Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
"""Which weights, dtype, tokenizer and chat template: `sha256:` and 64 hexadecimal digits."""

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat. Roles are what the model's chat template knows."""

    role: Annotated[str, Meta(min_length=1, max_length=32)]
    content: str


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat"):
    """Turns that the worker renders with the model's own chat template."""

    messages: Annotated[tuple[Message, ...], Meta(min_length=1, max_length=MAX_MESSAGES)]


class TextPrompt(msgspec.Struct, frozen=True, tag="text"):
    """Raw text to continue."""

    text: str


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids to continue, in the vocabulary of the model's own tokenizer."""

    token_ids: Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=MAX_TOKENS_LIMIT)]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is chosen. The defaults change nothing: plain sampling from the model's distribution.

    The choice at position i is a pure function of (logits, seed, i). `temperature` 0 is greedy. `top_k` 0 and
    `min_p` 0 are off.
    """

    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    temperature: Annotated[float, Meta(ge=0, le=100)] = 1.0
    top_k: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0


class GenerateRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="generate"):
    """One generation. `max_tokens` None means as many as the context holds.

    `digest`, when given, must be the worker's own: a model's name alone promises nothing. `stop` strings end the text
    before them; `stop_token_ids` end it as the model's own end token does; `ignore_eos` goes on past the latter.
    """

    request_id: Annotated[str, Meta(min_length=1, max_length=128)]
    model: ModelId
    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS_LIMIT)] | None = None
    stop: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=1024)], ...], Meta(max_length=MAX_STOP_STRINGS)
    ] = ()
    stop_token_ids: Annotated[tuple[TokenId, ...], Meta(max_length=64)] = ()
    ignore_eos: bool = False
    digest: Digest | None = None


class Load(msgspec.Struct, frozen=True):
    """How busy a worker is at one moment. `slots` is how many requests it takes at the same time."""

    running: Count = 0
    queued: Count = 0
    slots: Count = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one request, counted by the worker."""

    prompt_tokens: Count
    completion_tokens: Count


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True, tag="accepted"):
    """The worker has checked the request and will serve it, now or after those before it."""

    prompt_tokens: Count
    digest: Digest | None = None
    load: Load = Load()


class TextDelta(msgspec.Struct, frozen=True, tag="delta"):
    """Some more tokens, and exactly their text: a UTF-8 character is never split, and what may turn out to be a stop
    string is held back. Text without tokens comes last: what a token said before a stop string began within it."""

    text: str
    token_ids: tuple[TokenId, ...] = ()


FinishReason = Literal["stop", "length"]


class Finished(msgspec.Struct, frozen=True, omit_defaults=True, tag="finished"):
    """The generation is complete: `stop` at an end token or stop string, `length` at a limit."""

    reason: FinishReason
    usage: Usage
    load: Load = Load()


class Failed(msgspec.Struct, frozen=True, omit_defaults=True, tag="failed"):
    """The generation ended without being complete. `code` is one of `errors.WIRE_ERRORS`."""

    code: Annotated[str, Meta(max_length=64)]
    message: Annotated[str, Meta(max_length=2048)] = ""


Event = Accepted | TextDelta | Finished | Failed
"""What comes back: Accepted, TextDelta*, then exactly one of Finished or Failed. Failed may also come first."""
