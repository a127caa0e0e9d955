"""Turns what stages and drivers say into frames and back: a length, a message, and the numbers that follow it.

What a message says of its numbers is checked before any of them is kept. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from p2pnet.errors import ProtocolViolation
from p2pnet.stage_messages import StageResult, StageRow, ToDriver, ToStage
from p2pnet.wire.codec import LENGTH_BYTES, encode_frame

STAGE_PROTOCOL = "/p2pnet/stage/1"

MAX_STAGE_HEADER_BYTES = 64 << 10
"""A message without its numbers: as many pieces, notes and hops as it may have take half of that."""

MAX_STAGE_BODY_BYTES = 16 << 20
"""512 tokens of 8,192 float32 numbers. A stage has a few of them in memory for each driver."""

H = TypeVar("H", bound=ToStage | ToDriver)


@dataclass(frozen=True)
class StageFrame(Generic[H]):
    """A message, and its numbers in little-endian order: empty for those that have none."""

    header: H
    body: bytes = b""


def encode_stage_frame(header: ToStage | ToDriver, body: bytes = b"") -> bytes:
    """One frame. Raises ProtocolViolation rather than send what the other side must refuse."""
    if len(body) != body_bytes(header) or len(body) > MAX_STAGE_BODY_BYTES:
        raise ProtocolViolation(f"{len(body)} bytes behind a message that says {body_bytes(header)}")
    return encode_frame(header, MAX_STAGE_HEADER_BYTES) + body


def body_bytes(header: ToStage | ToDriver) -> int:
    """How many bytes of numbers follow a message."""
    return header.body_bytes if isinstance(header, StageRow | StageResult) else 0


class StageFrameDecoder(Generic[H]):
    """Turns bytes, however they are cut, into frames. Raises ProtocolViolation, or what `admit` raises for a message
    whose numbers have not been read yet; and is then useless. A frame that `admit` says no to is passed over, and its
    numbers are not kept."""

    def __init__(self, message_type: Any, admit: Callable[[H], bool] = lambda header: True) -> None:
        self._decode = msgspec.msgpack.Decoder(message_type).decode
        self._admit = admit
        self._buffer = bytearray()
        self._header: H | None = None
        self._unwanted_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether no part of a frame is waiting for its rest."""
        return not self._buffer and self._header is None and not self._unwanted_bytes

    def feed(self, data: bytes) -> list[StageFrame[H]]:
        """The frames that `data` completes, in order."""
        self._buffer += data
        frames: list[StageFrame[H]] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> StageFrame[H] | None:
        header = self._header
        while header is None:
            self._pass_over()
            if (header := self._next_header()) is None:
                return None
            if not self._admit(header):
                self._unwanted_bytes = body_bytes(header)
                header = None
        self._header = header
        size = body_bytes(header)
        if len(self._buffer) < size:
            return None
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._header = None
        return StageFrame(header, body)

    def _pass_over(self) -> None:
        passed = min(self._unwanted_bytes, len(self._buffer))
        del self._buffer[:passed]
        self._unwanted_bytes -= passed

    def _next_header(self) -> H | None:
        if len(self._buffer) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if length > MAX_STAGE_HEADER_BYTES:
            raise ProtocolViolation(f"a message of {length} bytes, {MAX_STAGE_HEADER_BYTES} allowed")
        end = LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        try:
            header: H = self._decode(bytes(self._buffer[LENGTH_BYTES:end]))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolViolation(f"not a message: {error}") from error
        if body_bytes(header) > MAX_STAGE_BODY_BYTES:
            raise ProtocolViolation(f"{body_bytes(header)} bytes of numbers, {MAX_STAGE_BODY_BYTES} allowed")
        del self._buffer[:end]
        return header


def to_stage_decoder(admit: Callable[[ToStage], bool] = lambda header: True) -> StageFrameDecoder[ToStage]:
    return StageFrameDecoder(ToStage, admit)


def to_driver_decoder(admit: Callable[[ToDriver], bool] = lambda header: True) -> StageFrameDecoder[ToDriver]:
    return StageFrameDecoder(ToDriver, admit)
