"""Frames of stages: each fed whole, byte by byte and with more behind it, and every way to break one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnet.errors import ProtocolViolation
from p2pnet.stage_messages import (
    MAX_STAGE_HOPS,
    MAX_STAGE_NOTES,
    MAX_STAGE_PIECES,
    MAX_STAGE_ROW_TOKENS,
    Copy,
    Hop,
    Piece,
    StageOpen,
    StagePassed,
    StageReady,
    StageRefused,
    StageReplay,
    StageResult,
    StageRow,
    ToStage,
)
from p2pnet.wire.stage_frames import (
    MAX_STAGE_HEADER_BYTES,
    StageFrame,
    StageFrameDecoder,
    encode_stage_frame,
    to_driver_decoder,
    to_stage_decoder,
)
from tests.stories import DIGEST, peer

TICKET = bytes(range(16))
PEER = peer("stage").peer_id
ROW = StageRow(
    TICKET, 7, 3, "bfloat16", (Piece(1, 0, 2), Piece(4, 9, 1, 1)), (3,), (Copy(1, 5, 2),), (Hop(PEER, TICKET),)
)
REPLAY = StageReplay(TICKET, 8, (Piece(1, 0, 2),), (Hop(PEER, TICKET),), (3,), is_spare=True)
FRAMES: dict[str, StageFrame[Any]] = {
    "open": StageFrame(StageOpen(DIGEST, 0, 12, TICKET)),
    "a row": StageFrame(ROW, bytes(range(18))),
    "a row without tokens": StageFrame(StageRow(TICKET, 8, 3, forget=(1, 2))),
    "a spare row": StageFrame(StageRow(TICKET, 9, 3, pieces=(Piece(1, 0, 1),), is_spare=True), bytes(12)),
    "a replay": StageFrame(REPLAY),
    "ready": StageFrame(StageReady(4096)),
    "a result": StageFrame(StageResult(7, 3, "float16", 1), b"\0\1\2\3\4\5"),
    "passed": StageFrame(StagePassed(7)),
    "refused": StageFrame(StageRefused("busy", "no room", 7)),
}


def decoder(frame: StageFrame[Any]) -> StageFrameDecoder[Any]:
    return to_stage_decoder() if isinstance(frame.header, ToStage) else to_driver_decoder()


@pytest.mark.parametrize("name", FRAMES)
def test_what_is_written_is_read_again_however_it_is_cut(name: str) -> None:
    frame = FRAMES[name]
    data = encode_stage_frame(frame.header, frame.body)
    assert decoder(frame).feed(data) == [frame]
    assert decoder(frame).feed(data + data) == [frame, frame]
    reader = decoder(frame)
    assert [found for byte in data for found in reader.feed(bytes([byte]))] == [frame]
    assert reader.is_empty
    reader.feed(data[:-1])
    assert not reader.is_empty


def framed(header: Any, body: bytes = b"") -> bytes:
    """Anything, as a hostile peer may send it."""
    raw = header if isinstance(header, bytes) else msgspec.msgpack.encode(header)
    return len(raw).to_bytes(4, "big") + raw + body


def row(**changes: Any) -> dict[str, Any]:
    return fields_of(ROW) | changes


def replay(**changes: Any) -> dict[str, Any]:
    return fields_of(REPLAY) | changes


def fields_of(message: StageRow | StageReplay) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    return fields


@pytest.mark.parametrize(
    "data",
    [
        (MAX_STAGE_HEADER_BYTES + 1).to_bytes(4, "big"),
        framed(b"\xc1"),
        framed({"type": "result", "step": 1, "width": 3}),
        framed(row(type="nothing")),
        framed(row(ticket=b"short")),
        framed(row(step=0)),
        framed(row(step=True)),
        framed(row(width=0)),
        framed(row(width=1 << 16)),
        framed(row(dtype="float64")),
        framed(row(pieces=[[1, 0, 0]])),
        framed(row(pieces=[[1, -1, 1]])),
        framed(row(pieces=[[1, 1 << 24, 1]])),
        framed(row(pieces=[[1, 0, MAX_STAGE_ROW_TOKENS + 1]])),
        framed(row(pieces=[[1, 0, 1]] * (MAX_STAGE_PIECES + 1))),
        framed(row(pieces=[[1, 0, 1000]] * 10, width=1 << 15, dtype="float32")),
        framed(row(forget=[1] * (MAX_STAGE_NOTES + 1))),
        framed(row(copies=[[1, 2, 0]])),
        framed(row(route=[[PEER, TICKET]] * (MAX_STAGE_HOPS + 1))),
        framed(row(route=[["nobody", TICKET]])),
        framed(replay(pieces=[])),
        framed(replay(route=[])),
        framed(replay(pieces=[[1, 0, MAX_STAGE_ROW_TOKENS + 1]])),
        framed(replay(route=[[PEER, TICKET]] * (MAX_STAGE_HOPS + 1))),
        framed({"type": "open", "digest": DIGEST, "first": -1, "last": 2, "ticket": TICKET}),
        framed({"type": "open", "digest": "tiny", "first": 0, "last": 2, "ticket": TICKET}),
    ],
)
def test_what_breaks_the_protocol_is_refused_before_its_numbers_are_read(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        to_stage_decoder().feed(data)


def test_a_message_is_asked_about_before_its_numbers_are_kept() -> None:
    seen: list[ToStage] = []
    reader = to_stage_decoder(lambda header: seen.append(header) is None)
    data = encode_stage_frame(ROW, bytes(18))
    assert reader.feed(data[:-18]) == []
    assert seen == [ROW]
    assert len(reader.feed(data[-18:])) == 1
    assert seen == [ROW]


def test_a_message_that_is_not_wanted_is_passed_over_with_its_numbers() -> None:
    reader = to_stage_decoder(lambda header: header != ROW)
    wanted = FRAMES["a row without tokens"]
    data = encode_stage_frame(ROW, bytes(18)) * 2 + encode_stage_frame(wanted.header)
    assert [found for byte in data for found in reader.feed(bytes([byte]))] == [wanted]
    assert reader.is_empty
    assert reader.feed(data) == [wanted]


def test_nothing_is_sent_that_the_other_side_must_refuse() -> None:
    with pytest.raises(ProtocolViolation):
        encode_stage_frame(ROW, bytes(17))
    with pytest.raises(ProtocolViolation):
        encode_stage_frame(StagePassed(1), b"more")


def test_the_largest_message_fits() -> None:
    most = StageRow(
        TICKET,
        (1 << 53) - 1,
        64,
        "bfloat16",
        tuple(Piece((1 << 53) - 1, (1 << 24) - 1, 4, 4) for _ in range(MAX_STAGE_PIECES)),
        ((1 << 53) - 1,) * MAX_STAGE_NOTES,
        (Copy((1 << 53) - 1, (1 << 53) - 1, (1 << 24) - 1),) * MAX_STAGE_NOTES,
        (Hop(PEER, TICKET),) * MAX_STAGE_HOPS,
    )
    assert to_stage_decoder().feed(encode_stage_frame(most, bytes(most.body_bytes)))[0].header == most


@given(st.binary(max_size=200))
def test_garbage_is_a_violation_or_nothing_yet(data: bytes) -> None:
    for reader in (to_stage_decoder(), to_driver_decoder()):
        with suppress(ProtocolViolation):
            reader.feed(data)
