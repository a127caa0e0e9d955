"""One call, byte by byte: how it is read and answered, and which calls are not."""

from __future__ import annotations

import asyncio

import pytest
from hivemind.proto import p2pd_pb2

from p2pnet.network.dht import call_limits
from p2pnet.network.dht.call_limits import (
    CALLS_PER_MINUTE_PER_PEER,
    MAX_CALLS_PER_GROUP,
    MAX_CALLS_PER_PEER,
    MAX_WAITING_BYTES_PER_GROUP,
    Caller,
    CallLimits,
)
from p2pnet.network.dht.calls import (
    DONE,
    ENVELOPE_BYTES,
    FIND,
    MAX_ERROR_CHARS,
    CallRefused,
    IncomingMessage,
    answer_in,
    packed_answer,
    packed_error,
    packed_question,
    question_in,
)
from p2pnet.network.dht.messages import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, Malformed
from p2pnet.network.dht.serving import CallServer
from p2pnet.network.libp2p.protobuf import delimited, read_varint, varint
from p2pnet.rate_limit import BURST_S
from tests.network.dht.call_streams import PairedStream, stream_pair
from tests.stories import settle

CALL_ID = bytes(range(16))
ASKER, NODE = "asker", "node"


def inside(packed: bytes) -> bytes:
    """A message without its length."""
    length, begin = read_varint(packed, 0)
    assert begin + length == len(packed)
    return packed[begin:]


# ---- envelopes


def test_p2pd_reads_our_questions_and_answers() -> None:
    question = p2pd_pb2.PersistentConnectionRequest.FromString(inside(packed_question(CALL_ID, FIND, b"data")))
    assert (question.callId, question.callUnary.proto, question.callUnary.data) == (CALL_ID, FIND, b"data")
    answer = p2pd_pb2.PersistentConnectionRequest.FromString(inside(packed_answer(CALL_ID, b"data")))
    assert (answer.callId, answer.unaryResponse.response) == (CALL_ID, b"data")
    error = p2pd_pb2.PersistentConnectionRequest.FromString(inside(packed_error(CALL_ID, "no")))
    assert (error.callId, error.unaryResponse.error) == (CALL_ID, b"no")


def test_we_read_those_of_p2pd() -> None:
    call = p2pd_pb2.CallUnaryRequest(peer=b"somebody", proto=FIND, data=b"data")
    question = p2pd_pb2.PersistentConnectionRequest(callId=CALL_ID, callUnary=call)
    assert question_in(question.SerializeToString()) == (CALL_ID, b"data")
    response = p2pd_pb2.CallUnaryResponse(response=b"data")
    answer = p2pd_pb2.PersistentConnectionRequest(callId=CALL_ID, unaryResponse=response)
    assert answer_in(answer.SerializeToString()) == b"data"


def test_an_error_is_bounded_text() -> None:
    error = p2pd_pb2.CallUnaryResponse(error=b"\xff" * 100_000)
    answer = p2pd_pb2.PersistentConnectionRequest(callId=CALL_ID, unaryResponse=error)
    with pytest.raises(CallRefused) as refused:
        answer_in(answer.SerializeToString())
    assert len(str(refused.value)) == MAX_ERROR_CHARS


@pytest.mark.parametrize("message", [b"", b"\xff", b"\x0a\x10" + CALL_ID, b"\x0a\x40" + bytes(64) + b"\x1a\x00"])
def test_what_is_no_question_is_malformed(message: bytes) -> None:
    with pytest.raises(Malformed):
        question_in(message)


# ---- reading


async def read_all(pieces: list[bytes], at_most: int = 1000) -> bytes:
    ours, theirs = stream_pair(ASKER, NODE)
    for piece in pieces:
        await ours.write(piece)
    ours.close()
    message = IncomingMessage(theirs, at_most)
    await message.length()
    return await message.body()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 1000])
async def test_a_message_arrives_however_it_is_cut(size: int) -> None:
    whole = delimited(bytes(size))
    assert await read_all([whole]) == bytes(size)
    assert await read_all([bytes([byte]) for byte in whole]) == bytes(size)
    assert await read_all([whole + b"more"]) == bytes(size)


@pytest.mark.parametrize(
    "pieces",
    [[], [b"\x80"], [b"\xff"] * 20, [delimited(bytes(1001))], [varint(1 << 40)], [delimited(bytes(100))[:50]]],
    ids=["nothing", "half a length", "a length without end", "too long", "a terabyte", "half"],
)
async def test_a_message_that_is_none_is_malformed(pieces: list[bytes]) -> None:
    with pytest.raises(Malformed):
        await read_all(pieces)


# ---- serving


def echo(_: Caller, question: bytes) -> bytes:
    return b"answer to " + question


def refuse(_: Caller, question: bytes) -> bytes:
    raise Malformed("too many keys")


async def test_a_call_is_answered_and_its_last_byte_left_unread() -> None:
    """The answer comes; the stream ends when the caller says that it was read, and not before."""
    ours, theirs = stream_pair(ASKER, NODE)
    serving = asyncio.create_task(CallServer().serve(theirs, echo))
    await ours.write(packed_question(CALL_ID, FIND, b"question"))
    assert answer_in(inside(await ours.read())) == b"answer to question"
    assert not theirs.is_reading
    assert not theirs.is_closed
    await ours.write(DONE)
    await serving
    assert theirs.is_closed


async def test_what_is_asked_wrongly_is_answered_with_an_error() -> None:
    ours, theirs = stream_pair(ASKER, NODE)
    serving = asyncio.create_task(CallServer().serve(theirs, refuse))
    await ours.write(packed_question(CALL_ID, FIND, b"question"))
    with pytest.raises(CallRefused, match="too many keys"):
        answer_in(inside(await ours.read()))
    ours.close()
    await serving


async def test_an_answer_that_is_too_large_is_an_error() -> None:
    ours, theirs = stream_pair(ASKER, NODE)
    serving = asyncio.create_task(CallServer().serve(theirs, lambda *_: bytes(MAX_RESPONSE_BYTES + 1)))
    await ours.write(packed_question(CALL_ID, FIND, b"question"))
    with pytest.raises(CallRefused, match="fewer keys"):
        answer_in(inside(await ours.read()))
    ours.close()
    await serving


@pytest.mark.parametrize(
    "question",
    [b"", b"\x04\xde\xad\xbe\xef", varint(MAX_REQUEST_BYTES + ENVELOPE_BYTES + 1), delimited(b"")],
    ids=["nothing", "garbage", "too long", "empty"],
)
async def test_what_is_no_call_ends_the_stream(question: bytes) -> None:
    ours, theirs = stream_pair(ASKER, NODE)
    if question:
        await ours.write(question)
    ours.close()
    await CallServer().serve(theirs, echo)
    assert theirs.is_closed
    assert await ours.read() == b""


async def begin(server: CallServer, number: int, address: str) -> tuple[PairedStream, asyncio.Task[None]]:
    """A call whose question does not come."""
    ours, theirs = stream_pair(f"{ASKER} {number}", NODE, address)
    task = asyncio.create_task(server.serve(theirs, echo))
    await asyncio.sleep(0)
    return ours, task


async def test_when_too_many_are_asking_the_slowest_of_the_greediest_goes() -> None:
    """Given as many silent calls as there may be, from a few networks, when another comes, it is answered."""
    server = CallServer()
    silent = []
    for number in range(call_limits.MAX_CALLS):
        group = number * 5 // call_limits.MAX_CALLS
        silent.append(await begin(server, number, f"/ip4/8.8.{group}.8/tcp/1"))
    ours, theirs = stream_pair(ASKER, NODE, "/ip4/9.9.9.9/tcp/1")
    serving = asyncio.create_task(server.serve(theirs, echo))
    await ours.write(packed_question(CALL_ID, FIND, b"question"))
    assert answer_in(inside(await ours.read())) == b"answer to question"
    ours.close()
    await serving
    await settle(lambda: sum(task.done() for _, task in silent) == 1)
    for stream, _ in silent:
        stream.close()
    await asyncio.gather(*(task for _, task in silent))


# ---- limits


def entered(limits: CallLimits, callers: list[Caller], now_s: float = 0.0) -> int:
    return sum(limits.enter(caller, now_s) for caller in callers)


def test_calls_at_once_are_bounded_by_peer_and_by_group() -> None:
    limits = CallLimits()
    one = Caller("a", "8.8.8.0/24")
    assert entered(limits, [one] * 1000) == MAX_CALLS_PER_PEER
    many = [Caller(f"b{number}", "8.8.8.0/24") for number in range(1000)]
    assert entered(limits, many) == MAX_CALLS_PER_GROUP - MAX_CALLS_PER_PEER
    assert entered(limits, [Caller("c", "9.9.9.0/24")]) == 1
    limits.leave(one)
    assert entered(limits, [one] * 2) == 1


def test_calls_in_a_minute_are_bounded_by_peer_and_by_group() -> None:
    def all_at_once(callers: list[Caller]) -> int:
        limits, taken = CallLimits(), 0
        for caller in callers:
            if limits.enter(caller, 0.0):
                limits.leave(caller)
                taken += 1
        return taken

    burst = CALLS_PER_MINUTE_PER_PEER * BURST_S / 60
    assert all_at_once([Caller("a", "group")] * 5000) == pytest.approx(burst, abs=2)
    assert all_at_once([Caller(f"{number}", "group") for number in range(5000)]) == pytest.approx(2.5 * burst, abs=2)
    assert all_at_once([Caller(f"{number}", f"group {number}") for number in range(5000)]) == 5000


def test_answers_that_wait_to_be_read_are_bounded() -> None:
    limits, caller = CallLimits(), Caller("a", "group")
    size = MAX_RESPONSE_BYTES
    begun = sum(limits.begin_answer(caller, size, 0.0) for _ in range(10))
    assert begun == MAX_WAITING_BYTES_PER_GROUP // size
    others = [Caller(f"{number}", f"group {number}") for number in range(100)]
    assert sum(limits.begin_answer(each, size, 0.0) for each in others) == call_limits.MAX_WAITING_BYTES // size - begun
    limits.end_answer(caller, size)
    assert limits.begin_answer(others[0], size, 0.0)
