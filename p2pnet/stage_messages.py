"""Defines what drivers and stages of a chain say to one another. Types of the wire, as those in `messages`.

A row is new tokens of several sequences, one after the other, as hidden states: their numbers travel behind the message
that describes them. Knows nothing of tensors.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2pnet.messages import Count, Digest
from p2pnet.records import LayerNumber, PeerId

MAX_STAGE_HOPS = 64
"""Stages that a row has still to pass. With more the network alone takes seconds for a token."""

MAX_STAGE_PIECES = 256
"""Sequences with new tokens in one row: eight times what an engine computes at the same time."""

MAX_STAGE_NOTES = 1024
"""Sequences that a row says to forget, and as many to copy: an engine that is shut down has no more."""

MAX_STAGE_WIDTH = 32_768
"""Numbers of one token's hidden state: twice the widest models in use."""

MAX_STAGE_ROW_TOKENS = 1024
"""Of all pieces of a row, and so of one piece and of a result: twice what an engine computes of prompts in one step."""

MAX_STAGE_POSITIONS = 1 << 24
"""As long as the longest context that a record can name."""

TICKET_BYTES = 16

Ticket = Annotated[bytes, Meta(min_length=TICKET_BYTES, max_length=TICKET_BYTES)]
"""What a driver has made up for one stage: whoever knows it speaks for this driver."""

Step = Annotated[int, Meta(ge=1, lt=1 << 53)]
SequenceNumber = Annotated[int, Meta(ge=0, lt=1 << 53)]
Position = Annotated[int, Meta(ge=0, lt=MAX_STAGE_POSITIONS)]
Width = Annotated[int, Meta(ge=1, le=MAX_STAGE_WIDTH)]
RowTokens = Annotated[int, Meta(ge=0, le=MAX_STAGE_ROW_TOKENS)]

StageDtype = Literal["float32", "bfloat16", "float16"]
ELEMENT_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

StageCode = Annotated[str, Meta(max_length=32, pattern=r"^[a-z_]*\Z")]

BAD_ROW = "bad_row"
"""It does not fit the model, the stage or what was said before: whoever made it is at fault."""
BAD_NUMBERS = "bad_numbers"
"""Hidden states that are no finite numbers have come: the stage before is at fault."""
SEQUENCE_GONE = "sequence_gone"
"""The stage does not have what comes before these tokens, or not any more: it can be computed again."""
NEXT_LOST = "next_lost"
"""The stage after this one cannot be reached from it."""
BUSY = "busy"
"""No room for this driver, or for so many tokens of it; or it asks for more than it may."""
NOT_HERE = "not_here"
"""The stage does not have these layers of this model."""
DRAINING = "draining"
"""The stage is stopping."""
NOT_ALLOWED = "not_allowed"
"""The stage's owner does not serve this driver."""
STAGE_FAILED = "stage_failed"
"""The stage failed while it computed."""


class StageRefusal(Exception):
    """Why a stage does not do something, as its code says. Stays between drivers and stages: gateways hear of what
    comes of it."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


class StageOpen(msgspec.Struct, frozen=True, omit_defaults=True, tag="open"):
    """Opens a driver's stream: from now on `ticket` stands for it at this stage, for layers [first, last) of a model.
    One driver has one ticket at a stage: with a new one the old one's sequences are forgotten."""

    digest: Digest
    first: LayerNumber
    last: LayerNumber
    ticket: Ticket


class StageReady(msgspec.Struct, frozen=True, omit_defaults=True, tag="ready"):
    """The stage takes rows for the ticket, and holds `kv_tokens` tokens of keys and values for it as long as no further
    drivers come."""

    kv_tokens: Count


class Hop(msgspec.Struct, frozen=True, array_like=True):
    """A stage that a row passes, and the driver's ticket there."""

    peer_id: PeerId
    ticket: Ticket


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """`count` tokens of a sequence from position `start` on. What the stage has of it from there on is forgotten. Of
    the last `wanted` of them the driver gets the hidden states at the chain's end."""

    sequence: SequenceNumber
    start: Position
    count: Annotated[int, Meta(ge=1, le=MAX_STAGE_ROW_TOKENS)]
    wanted: RowTokens = 0


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """The first `count` tokens of sequence `source` are those of sequence `target`, too, and nothing else."""

    source: SequenceNumber
    target: SequenceNumber
    count: Annotated[int, Meta(ge=1, lt=MAX_STAGE_POSITIONS)]


class StageRow(msgspec.Struct, frozen=True, omit_defaults=True, tag="row"):
    """A row of hidden states, the numbers of which follow it: those of `pieces`, one after the other.

    `forget` and then `copies` are done before anything is computed, at each stage that the row passes. `route` is where
    it goes from here; the last stage answers the driver. Steps of one ticket grow. A row `is_spare` that nobody waits
    for: it is computed when nothing else is to be, and takes memory that nobody wants.
    """

    ticket: Ticket
    step: Step
    width: Width
    dtype: StageDtype = "float32"
    pieces: Annotated[tuple[Piece, ...], Meta(max_length=MAX_STAGE_PIECES)] = ()
    forget: Annotated[tuple[SequenceNumber, ...], Meta(max_length=MAX_STAGE_NOTES)] = ()
    copies: Annotated[tuple[Copy, ...], Meta(max_length=MAX_STAGE_NOTES)] = ()
    route: Annotated[tuple[Hop, ...], Meta(max_length=MAX_STAGE_HOPS)] = ()
    is_spare: bool = False

    @property
    def tokens(self) -> int:
        return sum(piece.count for piece in self.pieces)

    @property
    def body_bytes(self) -> int:
        """How many bytes of numbers follow."""
        return self.tokens * self.width * ELEMENT_BYTES[self.dtype]


class StageReplay(msgspec.Struct, frozen=True, omit_defaults=True, tag="replay"):
    """Asks a stage to pass on once more what it has given for tokens that it has computed, as a row for the first stage
    of `route`: that one has come later, or has forgotten them. Nothing is computed here; `forget`, `is_spare` and what
    is left of `route` are the row's. Comes over the driver's own stream alone."""

    ticket: Ticket
    step: Step
    pieces: Annotated[tuple[Piece, ...], Meta(min_length=1, max_length=MAX_STAGE_PIECES)]
    route: Annotated[tuple[Hop, ...], Meta(min_length=1, max_length=MAX_STAGE_HOPS)]
    forget: Annotated[tuple[SequenceNumber, ...], Meta(max_length=MAX_STAGE_NOTES)] = ()
    is_spare: bool = False

    @property
    def tokens(self) -> int:
        return sum(piece.count for piece in self.pieces)


class StagePing(msgspec.Struct, frozen=True, omit_defaults=True, tag="ping"):
    """Asks for a sign of life: StagePong, at once, whatever is being computed. Comes over a stream of its own, where no
    numbers are before it."""


class StagePong(msgspec.Struct, frozen=True, omit_defaults=True, tag="pong"):
    """The answer to a ping."""


class StageResult(msgspec.Struct, frozen=True, omit_defaults=True, tag="result"):
    """What has come out of the last stage for a step: the hidden states that were wanted, which follow it, in order."""

    step: Step
    width: Width
    dtype: StageDtype = "float32"
    tokens: RowTokens = 0

    @property
    def body_bytes(self) -> int:
        """How many bytes of numbers follow."""
        return self.tokens * self.width * ELEMENT_BYTES[self.dtype]


class StagePassed(msgspec.Struct, frozen=True, omit_defaults=True, tag="passed"):
    """The stage has computed its part of a step and passed the row on: whoever is waited for comes after it."""

    step: Step


class StageRefused(msgspec.Struct, frozen=True, omit_defaults=True, tag="refused"):
    """The stage does not do a step, and says why. Without `step` it does not take the stream, and ends it."""

    code: StageCode
    message: Annotated[str, Meta(max_length=500)] = ""
    step: Step | None = None


ToStage = StageOpen | StageRow | StageReplay | StagePing
"""What a stage is sent, by drivers and by the stages before it."""

ToDriver = StageReady | StageResult | StagePassed | StageRefused | StagePong
"""What a driver is sent."""
