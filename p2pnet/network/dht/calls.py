"""One call of hivemind's DHT on one stream: how question and answer travel, read and written at either end.

A call is what p2pd makes of a unary call: a stream of the method's own protocol, on it one message behind its length, a
`PersistentConnectionRequest` with the question, and back the same with the answer. We read both ends' bytes ourselves,
since p2pd reserves the length that a stranger announces, and takes the caller's word for which call is answered.
https://github.com/learning-at-home/go-libp2p-daemon/blob/master/pb/p2pd.proto
"""

from __future__ import annotations

from p2pnet.network.dht.messages import MAX_RESPONSE_BYTES, Malformed
from p2pnet.network.interface import BareStream
from p2pnet.network.libp2p.protobuf import delimited, each_field, field, read_varint

PING, STORE, FIND = (f"DHTProtocol.rpc_{method}" for method in ("ping", "store", "find"))
"""The protocols of the three methods."""

ENVELOPE_BYTES = 512
"""What is around a question or an answer, at most: ids, the name of the method, or an error's text."""

CALL_ID_BYTES = 16
MAX_ERROR_CHARS = 200

_CALL_ID, _CALL, _ANSWER = 1, 3, 4
_PROTO, _DATA = 2, 3
_RESPONSE, _ERROR = 1, 2
_MAX_FIELDS = 16
_MAX_LENGTH_BYTES = 10

DONE = b"\0"
"""Sent when the answer has been read. It is left unread in the other end's socket, whose p2pd then resets the stream:
see `p2pd_stream`. Callers that are plain nodes close the stream instead."""


class CallRefused(Exception):
    """The other end has answered with an error."""


class IncomingMessage:
    """Reads one message behind its length. Raises Malformed when it is longer than it may be, or cut off."""

    def __init__(self, stream: BareStream, at_most: int) -> None:
        self._stream = stream
        self._at_most = at_most
        self._parts: list[bytes] = []
        self._received = 0
        self._length = 0

    async def length(self) -> int:
        """How long it will be; nothing has been kept of it but what came with its length."""
        start = b""
        while True:
            start += await self._more()
            try:
                self._length, begin = read_varint(start, 0)
            except IndexError:
                if len(start) > _MAX_LENGTH_BYTES:
                    raise Malformed("its length is cut off") from None
                continue
            except ValueError as error:
                raise Malformed(str(error)) from error
            if self._length > self._at_most:
                raise Malformed(f"a message of {self._length} bytes, {self._at_most} allowed")
            self._keep(start[begin:])
            return self._length

    async def body(self) -> bytes:
        """The rest of it, after `length`. What comes behind it is not looked at."""
        while self._received < self._length:
            self._keep(await self._more())
        return b"".join(self._parts)[: self._length]

    async def _more(self) -> bytes:
        data = await self._stream.read()
        if not data:
            raise Malformed("the stream has ended in the middle of a message")
        return data

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._received += len(data)


def packed_question(call_id: bytes, protocol: str, data: bytes) -> bytes:
    call = field(_PROTO, protocol.encode()) + field(_DATA, data)
    return delimited(field(_CALL_ID, call_id) + field(_CALL, call))


def question_in(message: bytes) -> tuple[bytes, bytes]:
    """The call's id and the question. Raises Malformed."""
    fields = _bytes_of(message)
    call_id = fields.get(_CALL_ID, b"")
    if len(call_id) > CALL_ID_BYTES or _CALL not in fields:
        raise Malformed("no call")
    return call_id, _bytes_of(fields[_CALL]).get(_DATA, b"")


def packed_answer(call_id: bytes, data: bytes) -> bytes:
    return delimited(field(_CALL_ID, call_id) + field(_ANSWER, field(_RESPONSE, data)))


def packed_error(call_id: bytes, text: str) -> bytes:
    error = text[:MAX_ERROR_CHARS].encode(errors="replace")
    return delimited(field(_CALL_ID, call_id) + field(_ANSWER, field(_ERROR, error)))


def answer_in(message: bytes) -> bytes:
    """Raises Malformed, and CallRefused when it is an error."""
    answer = _bytes_of(_bytes_of(message).get(_ANSWER, b""))
    if _ERROR in answer:
        raise CallRefused(answer[_ERROR][:MAX_ERROR_CHARS].decode(errors="replace"))
    if _RESPONSE not in answer:
        return b""
    return answer[_RESPONSE]


def max_answer_bytes(protocol: str) -> int:
    """How long an answer to a method may be, its envelope included."""
    return ENVELOPE_BYTES + (MAX_RESPONSE_BYTES if protocol == FIND else ENVELOPE_BYTES)


def _bytes_of(message: bytes) -> dict[int, bytes]:
    try:
        return {number: value for number, value in each_field(message, _MAX_FIELDS) if isinstance(value, bytes)}
    except (IndexError, ValueError) as error:
        raise Malformed(str(error)) from error
