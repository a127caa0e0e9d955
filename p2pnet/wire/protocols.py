"""Describes each of the protocols: its name, messages, order of events and sizes of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.messages import Accepted, Failed, Finished, GenerateRequest, TextDelta
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.score_messages import Scored, ScoreRequest
from p2pnet.status_messages import Announced, Status, StatusRequest, WatchRequest
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.wire.codec import (
    MAX_EMBED_EVENT_FRAME_BYTES,
    MAX_EVENT_FRAME_BYTES,
    MAX_REQUEST_FRAME_BYTES,
    MAX_RERANK_EVENT_FRAME_BYTES,
    MAX_SCORE_EVENT_FRAME_BYTES,
    MAX_STATUS_FRAME_BYTES,
    MAX_TOKENIZE_EVENT_FRAME_BYTES,
    MAX_WATCH_FRAME_BYTES,
    FrameDecoder,
    embed_event_decoder,
    embed_request_decoder,
    event_decoder,
    request_decoder,
    rerank_event_decoder,
    rerank_request_decoder,
    score_event_decoder,
    score_request_decoder,
    status_event_decoder,
    status_request_decoder,
    tokenize_event_decoder,
    tokenize_request_decoder,
    watch_event_decoder,
    watch_request_decoder,
)
from p2pnet.wire.exchange import (
    EMBED_PROTOCOL,
    EMBED_TRANSITIONS,
    GENERATE_PROTOCOL,
    RERANK_PROTOCOL,
    RERANK_TRANSITIONS,
    SCORE_PROTOCOL,
    SCORE_TRANSITIONS,
    STATUS_PROTOCOL,
    STATUS_TRANSITIONS,
    TOKENIZE_PROTOCOL,
    TOKENIZE_TRANSITIONS,
    TRANSITIONS,
    WATCH_PROTOCOL,
    WATCH_TRANSITIONS,
    Transitions,
)

Q = TypeVar(
    "Q", GenerateRequest, EmbedRequest, ScoreRequest, TokenizeRequest, RerankRequest, StatusRequest, WatchRequest
)
AnyAnswer = Accepted | TextDelta | Embedding | Scored | Tokenized | Relevance | Finished | Status | Announced
E = TypeVar("E", bound=AnyAnswer, covariant=True)


@dataclass(frozen=True)
class WireProtocol(Generic[Q, E]):
    """One request, and the events of type E that answer it. Failed may come instead of any of them, and Scored beside
    those of a generation."""

    name: str
    request_decoder: Callable[[], FrameDecoder[Q]]
    event_decoder: Callable[[], FrameDecoder[E | Failed | Scored]]
    transitions: Transitions
    max_request_frame_bytes: int
    max_event_frame_bytes: int


GENERATE = WireProtocol[GenerateRequest, Accepted | TextDelta | Finished](
    GENERATE_PROTOCOL,
    request_decoder,
    event_decoder,
    TRANSITIONS,
    MAX_REQUEST_FRAME_BYTES,
    MAX_EVENT_FRAME_BYTES,
)
EMBED = WireProtocol[EmbedRequest, Accepted | Embedding | Finished](
    EMBED_PROTOCOL,
    embed_request_decoder,
    embed_event_decoder,
    EMBED_TRANSITIONS,
    MAX_REQUEST_FRAME_BYTES,
    MAX_EMBED_EVENT_FRAME_BYTES,
)
SCORE = WireProtocol[ScoreRequest, Accepted | Scored | Finished](
    SCORE_PROTOCOL,
    score_request_decoder,
    score_event_decoder,
    SCORE_TRANSITIONS,
    MAX_REQUEST_FRAME_BYTES,
    MAX_SCORE_EVENT_FRAME_BYTES,
)
TOKENIZE = WireProtocol[TokenizeRequest, Accepted | Tokenized | Finished](
    TOKENIZE_PROTOCOL,
    tokenize_request_decoder,
    tokenize_event_decoder,
    TOKENIZE_TRANSITIONS,
    MAX_REQUEST_FRAME_BYTES,
    MAX_TOKENIZE_EVENT_FRAME_BYTES,
)
RERANK = WireProtocol[RerankRequest, Accepted | Relevance | Finished](
    RERANK_PROTOCOL,
    rerank_request_decoder,
    rerank_event_decoder,
    RERANK_TRANSITIONS,
    MAX_REQUEST_FRAME_BYTES,
    MAX_RERANK_EVENT_FRAME_BYTES,
)
STATUS = WireProtocol[StatusRequest, Status](
    STATUS_PROTOCOL,
    status_request_decoder,
    status_event_decoder,
    STATUS_TRANSITIONS,
    MAX_STATUS_FRAME_BYTES,
    MAX_STATUS_FRAME_BYTES,
)
WATCH = WireProtocol[WatchRequest, Status | Announced](
    WATCH_PROTOCOL,
    watch_request_decoder,
    watch_event_decoder,
    WATCH_TRANSITIONS,
    MAX_STATUS_FRAME_BYTES,
    MAX_WATCH_FRAME_BYTES,
)
