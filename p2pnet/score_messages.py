"""Defines the request to score another worker's answer and what comes back, as `messages` does it for a generation.

These structs are the wire's types, so fields are only ever added, each with a default.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta

from p2pnet.messages import (
    MAX_STOP_CHARS,
    MAX_TOKENS_LIMIT,
    Accepted,
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    TextDelta,
    TokenId,
)

MAX_MARGIN = 0.5
"""In units of logits. Beyond it a larger one says no more: this is far above what rounding does, and without a bound
one token could weigh as much as a thousand (arXiv 2511.20621)."""

MARGIN_BYTES = 4

MAX_SCORED_MARGINS = 4096
"""In one event, as many as fill 16 KiB; a longer answer has several."""


TextHash = Annotated[bytes, Meta(min_length=32, max_length=32)]


class ScoreRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="score"):
    """An answer of another worker's, to be looked at: is each of its tokens the one that the sampler gives there?

    `request` is what that worker was asked for: one answer, with its own seed and its own `resume_tokens`, and with
    `digest` and `sampler`, by which it is scored. `token_ids` are those that it gave, after the `resume_tokens` and
    without an end token. `reason` and `stop` are how it said that it ended, as in Finished; None where it broke off or
    was cut, so that its end is not looked at. `text_hash` is the `text_hash` of what it said with these tokens, and
    after the last one where a `reason` is given; None leaves the text alone. `logprobs` and `echo` of the request
    change nothing here.
    """

    request: GenerateRequest
    token_ids: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_TOKENS_LIMIT)] = ()
    reason: FinishReason | None = None
    stop: Annotated[str, Meta(max_length=MAX_STOP_CHARS)] | None = None
    text_hash: TextHash | None = None

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def model(self) -> str:
        return self.request.model

    @property
    def keep_stream(self) -> bool:
        """Few are scored: each has a stream of its own."""
        return False


class Scored(msgspec.Struct, frozen=True, omit_defaults=True, tag="scored"):
    """The margins of some more tokens, in their order: float32, little-endian, from 0 to MAX_MARGIN.

    A margin says by how much another token beats the one that was given, in units of logits: 0 where it is the one.
    `end` is the margin of the answer's end, in the last event only, and only where a `reason` was given. `text` is that
    of the text, there too, and only where a `text_hash` was given: 0 where the tokens say this text. Workers of an
    earlier version leave it out.
    """

    margins: Annotated[bytes, Meta(max_length=MARGIN_BYTES * MAX_SCORED_MARGINS)] = b""
    end: Annotated[float, Meta(ge=0, le=MAX_MARGIN)] | None = None
    text: Annotated[float, Meta(ge=0, le=MAX_MARGIN)] | None = None

    @classmethod
    def of(cls, margins: Sequence[float], end: float | None = None, text: float | None = None) -> Scored:
        """At most MAX_SCORED_MARGINS of them."""
        return cls(struct.pack(f"<{len(margins)}f", *margins), end, text)

    @property
    def values(self) -> tuple[float, ...]:
        """The margins as numbers. There is one for each MARGIN_BYTES; the wire's check says whether they are whole."""
        return struct.unpack(f"<{len(self.margins) // MARGIN_BYTES}f", self.margins)


ScoreEvent = Accepted | Scored | Finished | Failed
"""What comes back: Accepted, Scored until each token has its margin, then Finished; or Failed at any point."""


def text_hash(deltas: Iterable[TextDelta]) -> bytes:
    """32 bytes of what some deltas of one answer say together, text and tool calls, however it is cut into deltas:
    SHA-256 over the SHA-256 of the text, and those of id, name and arguments of each call, by index; all in UTF-8."""
    texts: list[str] = []
    calls: dict[int, tuple[list[str], list[str], list[str]]] = {}
    for delta in deltas:
        texts.append(delta.text)
        for piece in delta.tool_calls:
            call = calls.setdefault(piece.index, ([], [], []))
            for said, what in zip(call, (piece.id or "", piece.name or "", piece.arguments), strict=True):
                said.append(what)
    parts = (texts, *(part for index in sorted(calls) for part in calls[index]))
    return sha256(b"".join(sha256("".join(part).encode()).digest() for part in parts)).digest()
