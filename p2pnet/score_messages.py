"""Defines the request to score another worker's answer and what comes back, as `messages` does it for a generation.

These structs are the wire's types, so fields are only ever added, each with a default.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
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
    TokenId,
)

MAX_MARGIN = 0.5
"""In units of logits. Beyond it a larger one says no more: this is far above what rounding does, and without a bound
one token could weigh as much as a thousand (arXiv 2511.20621)."""

MARGIN_BYTES = 4

MAX_SCORED_MARGINS = 4096
"""In one event, as many as fill 16 KiB; a longer answer has several."""


class ScoreRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="score"):
    """An answer of another worker's, to be looked at: is each of its tokens the one that the sampler gives there?

    `request` is what that worker was asked for: one answer, with its own seed and its own `resume_tokens`, and with
    `digest` and `sampler`, by which it is scored. `token_ids` are those that it gave, after the `resume_tokens` and
    without an end token. `reason` and `stop` are how it said that it ended, as in Finished; None where it broke off or
    was cut, so that its end is not looked at. `logprobs` and `echo` of the request change nothing here.
    """

    request: GenerateRequest
    token_ids: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_TOKENS_LIMIT)] = ()
    reason: FinishReason | None = None
    stop: Annotated[str, Meta(max_length=MAX_STOP_CHARS)] | None = None

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
    `end` is the margin of the answer's end, in the last event only, and only where a `reason` was given.
    """

    margins: Annotated[bytes, Meta(max_length=MARGIN_BYTES * MAX_SCORED_MARGINS)] = b""
    end: Annotated[float, Meta(ge=0, le=MAX_MARGIN)] | None = None

    @classmethod
    def of(cls, margins: Sequence[float], end: float | None = None) -> Scored:
        """At most MAX_SCORED_MARGINS of them."""
        return cls(struct.pack(f"<{len(margins)}f", *margins), end)

    @property
    def values(self) -> tuple[float, ...]:
        """The margins as numbers. There is one for each MARGIN_BYTES; the wire's check says whether they are whole."""
        return struct.unpack(f"<{len(self.margins) // MARGIN_BYTES}f", self.margins)


ScoreEvent = Accepted | Scored | Finished | Failed
"""What comes back: Accepted, Scored until each token has its margin, then Finished; or Failed at any point."""
