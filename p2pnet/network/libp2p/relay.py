"""Asks a relay for a place, and for a way to a peer that has one.

Knows nothing of p2pd: it is handed streams. https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import base58
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pnet.errors import PeerLost
from p2pnet.network.interface import Stream
from p2pnet.network.libp2p.delimited import MAX_REPLY_BYTES, read_message
from p2pnet.network.libp2p.protobuf import delimited, each_field, field, fields_of

HOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"

FAREWELL = bytes(16)
"""What is said last over a stream, by whoever wants the other end to end it by a reset. It makes no sense to any secure
channel, nor to multistream-select, so a peer that reads it within a circuit closes the connection there. Over QUIC a
stream that is closed and then reset at once, which is what p2pd makes of our close, is never given back: see
`hivemind/p2pd_stream`."""

LETTING_GO_S = 3.0
"""How long the other end may take for that: some round trips over a bad line."""

MAX_RELAY_ADDRESSES = 8
"""Of a relay's own addresses those that are looked at."""

LOAD = 100
"""Our own field of a reservation: the part of the relay's circuits that is in use, in percent. Others read it over."""

_RESERVE, _CONNECT = 0, 1
_TYPE, _PEER, _RESERVATION, _LIMIT, _STATUS = 1, 2, 3, 4, 5
_EXPIRE, _ADDRESS = 1, 2
_LIMIT_DURATION_S, _LIMIT_DATA_BYTES = 1, 2
_STATUS_OK = 100


@dataclass(frozen=True)
class GrantedLimits:
    """What a relay cuts a circuit at. None: it does not."""

    duration_s: int | None
    data_bytes: int | None


@dataclass(frozen=True)
class Reservation:
    """A place at a relay: others reach us at its `addresses`, which it claims to be reached at itself, until
    `expires_s` since 1970 by its own clock; None where it does not say. `load_percent` is how busy it says it is."""

    limits: GrantedLimits
    addresses: tuple[str, ...] = ()
    expires_s: int | None = None
    load_percent: int = 0


async def reserve(stream: Stream) -> Reservation | None:
    """Ask for a place over `stream`, which was opened for HOP_PROTOCOL. None when it is refused, or the answer makes no
    sense. Whoever has one keeps it, for longer."""
    await stream.write(delimited(field(_TYPE, _RESERVE)))
    message = await _answer(stream)
    try:
        return None if message is None or not _is_granted(message) else _reservation_in(message)
    except (IndexError, ValueError):
        return None


async def leads_to(stream: Stream, peer_id: str) -> bool:
    """Whether the relay at the other end of `stream`, which was opened for HOP_PROTOCOL, has a circuit to a peer. It is
    made, and ends with the stream."""
    await stream.write(delimited(field(_TYPE, _CONNECT) + field(_PEER, field(1, base58.b58decode(peer_id)))))
    message = await _answer(stream)
    try:
        return message is not None and _is_granted(message)
    except (IndexError, ValueError):
        return False


async def _answer(stream: Stream) -> bytes | None:
    """Read the answer, and have the relay end the stream."""
    message = await read_message(stream)
    with contextlib.suppress(PeerLost, TimeoutError):
        async with asyncio.timeout(LETTING_GO_S):
            await stream.write(FAREWELL)
            while message is not None and await stream.read():
                await stream.write(FAREWELL)
    return message


def _is_granted(message: bytes) -> bool:
    return fields_of(message).get(_STATUS, _STATUS_OK) == _STATUS_OK


def _reservation_in(message: bytes) -> Reservation:
    fields = fields_of(message)
    limit, granted = fields.get(_LIMIT, b""), fields.get(_RESERVATION, b"")
    values = fields_of(limit) if isinstance(limit, bytes) else {}
    duration_s, data_bytes = values.get(_LIMIT_DURATION_S), values.get(_LIMIT_DATA_BYTES)
    limits = GrantedLimits(
        duration_s if isinstance(duration_s, int) else None, data_bytes if isinstance(data_bytes, int) else None
    )
    place = granted if isinstance(granted, bytes) else b""
    said = fields_of(place)
    expires_s, load_percent = said.get(_EXPIRE), said.get(LOAD)
    return Reservation(
        limits,
        tuple(_addresses_in(place)),
        expires_s if isinstance(expires_s, int) else None,
        min(load_percent, 100) if isinstance(load_percent, int) else 0,
    )


def _addresses_in(place: bytes) -> Iterator[str]:
    """The first few, as text; those that are no multiaddrs are left out."""
    packed = [value for number, value in each_field(place, at_most=MAX_REPLY_BYTES) if number == _ADDRESS and value]
    for address in packed[:MAX_RELAY_ADDRESSES]:
        try:
            yield str(Multiaddr(address))
        except (MultiaddrError, ValueError, LookupError, TypeError):
            continue
