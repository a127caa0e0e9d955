"""The beginning of a stream between members: each end proves that it is one, or there is no stream.

    opener                                acceptor
      | -- Hello: certificate, protocol ----> |   opens only with the swarm's secret
      | <---------------- Hello: certificate -- |   or an empty frame: refused, and no word why
      | == the protocol's own bytes ========= |

A hello is sealed for this swarm and these two peers, which libp2p has proven, so it is of no use to anybody else. Knows
nothing of what comes after.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from p2pnet.errors import NotAllowed, NotAMember, PeerLost, ProtocolViolation
from p2pnet.network.interface import Stream
from p2pnet.records import Label
from p2pnet.swarm.certificates import Certificate
from p2pnet.swarm.membership import OwnCertificate
from p2pnet.swarm.register import Register
from p2pnet.swarm.secret import SwarmSecret

LENGTH_BYTES = 4

MAX_HELLO_BYTES = 1_024
"""Of a hello's body: a third of it is used today, so that fields can be added."""

REFUSAL = bytes(LENGTH_BYTES)
"""An empty frame. A member of another swarm, somebody revoked and a stranger all get the same."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """What one end says first. The acceptor names no protocol."""

    certificate: Certificate
    protocol: Label = ""


@dataclass(frozen=True)
class Greeted:
    """The other end has proven to be a member. `ahead` is what came behind its hello."""

    hello: Hello
    ahead: bytes


_decode = msgspec.msgpack.Decoder(Hello).decode


class Greeter:
    """Says hello for one member."""

    def __init__(self, peer_id: str, certificate: OwnCertificate, secret: SwarmSecret, register: Register) -> None:
        self._peer_id = peer_id
        self._certificate = certificate
        self._secret = secret
        self._register = register

    async def open(self, stream: Stream, protocol: str) -> Greeted:
        """The opener's part. Raises NotAllowed when it is refused, ProtocolViolation when the other end is no member,
        PeerLost when it ends."""
        hello = Hello(self._certificate.newest, protocol)
        await stream.write(self._sealed(hello, opening_context(self._peer_id, stream.peer_id)))
        body, ahead = await _read_frame(stream)
        if not body:
            raise NotAllowed("the peer does not take us for a member of its swarm")
        try:
            return Greeted(self._opened(body, answering_context(stream.peer_id, self._peer_id), stream.peer_id), ahead)
        except NotAMember as error:
            raise ProtocolViolation(f"no member of the swarm: {error.message}") from error

    async def accept(self, stream: Stream) -> Greeted:
        """The acceptor's first part: who comes is a member. Raises NotAMember with a reason that is for our own log, or
        ProtocolViolation, or PeerLost."""
        body, ahead = await _read_frame(stream)
        return Greeted(self._opened(body, opening_context(stream.peer_id, self._peer_id), stream.peer_id), ahead)

    async def welcome(self, stream: Stream) -> None:
        """Its second part: so are we. Raises PeerLost."""
        await stream.write(
            self._sealed(Hello(self._certificate.newest), answering_context(self._peer_id, stream.peer_id))
        )

    def _sealed(self, hello: Hello, context: str) -> bytes:
        body = self._secret.seal(msgspec.msgpack.encode(hello), context)
        return len(body).to_bytes(LENGTH_BYTES, "big") + body

    def _opened(self, body: bytes, context: str, peer_id: str) -> Hello:
        plain = self._secret.open(body, context)
        if plain is None:
            raise NotAMember("its hello is not for this swarm")
        try:
            hello = _decode(plain)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise NotAMember(f"not a hello: {error}") from error
        self._register.check(hello.certificate, peer_id)
        return hello


def opening_context(opener_id: str, acceptor_id: str) -> str:
    """What the opener's hello is bound to."""
    return f"opener {opener_id} {acceptor_id}"


def answering_context(acceptor_id: str, opener_id: str) -> str:
    """What the acceptor's hello is bound to."""
    return f"acceptor {acceptor_id} {opener_id}"


async def _read_frame(stream: Stream) -> tuple[bytes, bytes]:
    """The body of a stream's first frame, in however small pieces it comes, and what came behind it."""
    data = b""
    while len(data) < LENGTH_BYTES or len(data) < LENGTH_BYTES + _length(data):
        more = await stream.read()
        if not more:
            raise PeerLost("the stream ended before its hello")
        data += more
    end = LENGTH_BYTES + _length(data)
    return data[LENGTH_BYTES:end], data[end:]


def _length(data: bytes) -> int:
    length = int.from_bytes(data[:LENGTH_BYTES], "big")
    if length > MAX_HELLO_BYTES:
        raise ProtocolViolation(f"a hello of {length} bytes, {MAX_HELLO_BYTES} allowed")
    return length
