"""Turns messages into frames and back: a 4-byte big-endian length, then msgpack. No I/O, no states: see `exchange`.

Unknown fields are ignored, so that fields can be added. Every frame is capped before it is read.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from p2pnet.embed_messages import MAX_DIMENSIONS, EmbedEvent, EmbedRequest
from p2pnet.errors import ProtocolViolation
from p2pnet.messages import Event, GenerateRequest
from p2pnet.receipts.signed import Acknowledged
from p2pnet.rerank_messages import RerankEvent, RerankRequest
from p2pnet.score_messages import MARGIN_BYTES, MAX_SCORED_MARGINS, Scored, ScoreEvent, ScoreRequest
from p2pnet.status_messages import StatusEvent, StatusRequest, WatchEvent, WatchRequest
from p2pnet.tokenize_messages import TokenizeEvent, TokenizeRequest

LENGTH_BYTES = 4

MAX_REQUEST_FRAME_BYTES = 4 << 20
"""A prompt of a million tokens is about 4 MB of text; more than that no model here can read."""

MAX_EVENT_FRAME_BYTES = 64 << 10
"""One event: tokens that were waiting together. Small enough that a hostile worker cannot fill a gateway's memory."""

MAX_EMBED_EVENT_FRAME_BYTES = 4 * MAX_DIMENSIONS + (1 << 10)
"""One vector and what stands around it."""

MAX_SCORE_EVENT_FRAME_BYTES = MARGIN_BYTES * MAX_SCORED_MARGINS + (4 << 10)
"""Margins, and what stands around them; or why the answer is not scored, in a Failed's longest words."""

MAX_TOKENIZE_EVENT_FRAME_BYTES = 64 << 10
"""Tokens with their names, or text: as much as MAX_IDS_AT_ONCE of usual ones take."""

MAX_RERANK_EVENT_FRAME_BYTES = 4 << 10
"""One score, or why there is none, in a Failed's longest words."""

MAX_STATUS_FRAME_BYTES = 4 << 10
"""A probe, and its answer: a tenth of it today, so that fields can be added. Thousands of them are cheap to refuse."""

MAX_WATCH_FRAME_BYTES = 8 << 10
"""What a worker tells a gateway that watches it: the largest record, and room for more fields."""

MAX_ACKNOWLEDGED_FRAME_BYTES = 4 << 10
"""A signature under a few hashes and numbers, and room for more fields."""

T = TypeVar("T", covariant=True)


class _Tagged(msgspec.Struct):
    type: str = ""


_decode_tag = msgspec.msgpack.Decoder(_Tagged).decode
_encode = msgspec.msgpack.Encoder().encode


def encode_frame(message: Any, max_frame_bytes: int) -> bytes:
    """Encode a message as one frame. Raises ProtocolViolation rather than send what the other side must refuse."""
    body = _encode(message)
    if len(body) > max_frame_bytes:
        raise ProtocolViolation(f"a frame of {len(body)} bytes, {max_frame_bytes} allowed")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def type_of(body: bytes) -> str:
    """The `type` that the body of a frame says it is of; "" where it says none."""
    try:
        return _decode_tag(body).type
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


class FrameDecoder(Generic[T]):
    """Turns bytes, however they are cut, into messages of one type. Raises ProtocolViolation, and is then useless."""

    def __init__(self, message_type: Any, max_frame_bytes: int) -> None:
        self._decode = msgspec.msgpack.Decoder(message_type).decode
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self.last_body = b""
        """Of the last frame, as it came."""

    @property
    def is_empty(self) -> bool:
        """Whether no part of a frame is waiting for its rest."""
        return not self._buffer

    def feed(self, data: bytes) -> list[T]:
        """The messages that `data` completes, in order."""
        self._buffer += data
        messages: list[T] = []
        start = 0
        while (end := self._end_of_frame(start)) is not None:
            self.last_body = bytes(self._buffer[start + LENGTH_BYTES : end])
            messages.append(self._message(self.last_body))
            start = end
        del self._buffer[:start]
        return messages

    def _end_of_frame(self, start: int) -> int | None:
        body_start = start + LENGTH_BYTES
        if len(self._buffer) < body_start:
            return None
        length = int.from_bytes(self._buffer[start:body_start], "big")
        if length > self._max_frame_bytes:
            raise ProtocolViolation(f"a frame of {length} bytes, {self._max_frame_bytes} allowed")
        return body_start + length if len(self._buffer) >= body_start + length else None

    def _message(self, body: bytes) -> T:
        try:
            return self._decode(body)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolViolation(f"not a message: {error}") from error


def request_decoder() -> FrameDecoder[GenerateRequest]:
    return FrameDecoder(GenerateRequest, MAX_REQUEST_FRAME_BYTES)


def event_decoder() -> FrameDecoder[Event | Scored]:
    return FrameDecoder(Event | Scored, MAX_EVENT_FRAME_BYTES)


def acknowledged_decoder() -> FrameDecoder[Acknowledged]:
    return FrameDecoder(Acknowledged, MAX_ACKNOWLEDGED_FRAME_BYTES)


def embed_request_decoder() -> FrameDecoder[EmbedRequest]:
    return FrameDecoder(EmbedRequest, MAX_REQUEST_FRAME_BYTES)


def embed_event_decoder() -> FrameDecoder[EmbedEvent]:
    return FrameDecoder(EmbedEvent, MAX_EMBED_EVENT_FRAME_BYTES)


def score_request_decoder() -> FrameDecoder[ScoreRequest]:
    return FrameDecoder(ScoreRequest, MAX_REQUEST_FRAME_BYTES)


def score_event_decoder() -> FrameDecoder[ScoreEvent]:
    return FrameDecoder(ScoreEvent, MAX_SCORE_EVENT_FRAME_BYTES)


def tokenize_request_decoder() -> FrameDecoder[TokenizeRequest]:
    return FrameDecoder(TokenizeRequest, MAX_REQUEST_FRAME_BYTES)


def tokenize_event_decoder() -> FrameDecoder[TokenizeEvent]:
    return FrameDecoder(TokenizeEvent, MAX_TOKENIZE_EVENT_FRAME_BYTES)


def rerank_request_decoder() -> FrameDecoder[RerankRequest]:
    return FrameDecoder(RerankRequest, MAX_REQUEST_FRAME_BYTES)


def rerank_event_decoder() -> FrameDecoder[RerankEvent]:
    return FrameDecoder(RerankEvent, MAX_RERANK_EVENT_FRAME_BYTES)


def status_request_decoder() -> FrameDecoder[StatusRequest]:
    return FrameDecoder(StatusRequest, MAX_STATUS_FRAME_BYTES)


def status_event_decoder() -> FrameDecoder[StatusEvent]:
    return FrameDecoder(StatusEvent, MAX_STATUS_FRAME_BYTES)


def watch_request_decoder() -> FrameDecoder[WatchRequest]:
    return FrameDecoder(WatchRequest, MAX_STATUS_FRAME_BYTES)


def watch_event_decoder() -> FrameDecoder[WatchEvent]:
    return FrameDecoder(WatchEvent, MAX_WATCH_FRAME_BYTES)
