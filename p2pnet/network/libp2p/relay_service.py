"""What a relay reads and writes: what peers ask it for, its answers, and how it offers a circuit to a peer.

Functions of bytes: knows nothing of who has a place, nor of limits. The other side is in `relay`.
https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import base58
from multiaddr import Multiaddr

from p2pnet.network.libp2p.protobuf import delimited, field, fields_of
from p2pnet.network.libp2p.relay import LOAD, GrantedLimits

STOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/stop"

MAX_PEER_ID_BYTES = 64
"""An Ed25519 id has 38 bytes, an RSA one 34."""

_RESERVE, _CONNECT, _HOP_STATUS = 0, 1, 2
_STOP_CONNECT, _STOP_STATUS = 0, 1
_TYPE, _PEER = 1, 2
_HOP_RESERVATION, _HOP_LIMIT, _HOP_STATUS_CODE = 3, 4, 5
_STOP_LIMIT, _STOP_STATUS_CODE = 3, 4
_PEER_ID = 1
_EXPIRE, _ADDRESS = 1, 2
_LIMIT_DURATION_S, _LIMIT_DATA_BYTES = 1, 2


class Status(IntEnum):
    """A relay's answer."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400


def peer_asked_for(message: bytes) -> str | None:
    """The peer to which somebody asks a relay for a circuit; None when it asks for a place. Raises ValueError when it
    asks for nothing that there is."""
    try:
        fields = fields_of(message)
        asked = fields.get(_TYPE)
        if asked == _RESERVE:
            return None
        peer = fields.get(_PEER)
        peer_id = fields_of(peer).get(_PEER_ID) if isinstance(peer, bytes) else None
    except IndexError as error:
        raise ValueError("cut off") from error
    if asked != _CONNECT or not isinstance(peer_id, bytes) or not 0 < len(peer_id) <= MAX_PEER_ID_BYTES:
        raise ValueError("neither a place nor a peer is asked for")
    return str(base58.b58encode(peer_id).decode())


def status(code: Status) -> bytes:
    """An answer that is a refusal."""
    return delimited(field(_TYPE, _HOP_STATUS) + field(_HOP_STATUS_CODE, code))


def place_granted(expires_s: int, addresses: Sequence[str], limits: GrantedLimits, load_percent: int = 0) -> bytes:
    """A place until `expires_s` since 1970, at a relay that is dialled at `addresses`, full multiaddrs, and that has so
    much of what it gives in use. No voucher goes with it: nobody asks for them."""
    named = b"".join(field(_ADDRESS, Multiaddr(address).to_bytes()) for address in addresses)
    return delimited(
        field(_TYPE, _HOP_STATUS)
        + field(_HOP_RESERVATION, field(_EXPIRE, expires_s) + named + field(LOAD, load_percent))
        + field(_HOP_LIMIT, _packed(limits))
        + field(_HOP_STATUS_CODE, Status.OK)
    )


def circuit_granted(limits: GrantedLimits) -> bytes:
    """From here on the stream is the circuit."""
    return delimited(
        field(_TYPE, _HOP_STATUS) + field(_HOP_LIMIT, _packed(limits)) + field(_HOP_STATUS_CODE, Status.OK)
    )


def circuit_offered(from_peer_id: str, limits: GrantedLimits) -> bytes:
    """What the peer at the other end is told of who wants to talk to it."""
    peer = field(_PEER_ID, base58.b58decode(from_peer_id))
    return delimited(field(_TYPE, _STOP_CONNECT) + field(_PEER, peer) + field(_STOP_LIMIT, _packed(limits)))


def is_taken(message: bytes) -> bool:
    """Whether that peer takes it."""
    try:
        fields = fields_of(message)
    except (IndexError, ValueError):
        return False
    return fields.get(_TYPE) == _STOP_STATUS and fields.get(_STOP_STATUS_CODE) == Status.OK


def _packed(limits: GrantedLimits) -> bytes:
    return b"".join(
        field(number, value)
        for number, value in ((_LIMIT_DURATION_S, limits.duration_s), (_LIMIT_DATA_BYTES, limits.data_bytes))
        if value is not None
    )
