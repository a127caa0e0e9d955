"""Speaks circuit relay v2: takes reservations, opens circuits through a relay, and accepts those that come.

https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import base58

from bench.harness.stranger.channel import Channel, read_delimited
from bench.harness.stranger.connection import Connection
from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.yamux import MuxedStream
from p2pnet.network.libp2p.protobuf import delimited, field, fields_of
from p2pnet.network.libp2p.relay import HOP_PROTOCOL

STOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/stop"

OK = 100
RESERVATION_REFUSED = 200
RESOURCE_LIMIT_EXCEEDED = 201

_RESERVE, _CONNECT, _HOP_STATUS_TYPE, _STOP_STATUS_TYPE = 0, 1, 2, 1
_HOP_PEER, _HOP_STATUS = 2, 5
_STOP_STATUS = 4


async def reserve(connection: Connection) -> int:
    """Ask the peer at the other end for a reservation; returns its status."""
    stream = await connection.open(HOP_PROTOCOL)
    await stream.write(delimited(field(1, _RESERVE)))
    status = await _status(stream)
    await stream.close()
    return status


async def open_circuit(connection: Connection, peer_id: str) -> tuple[int, MuxedStream]:
    """Ask the relay for a circuit to a peer; returns its status, and the stream, which is the circuit when that is OK:
    then what is written to it comes out at the other end."""
    stream = await connection.open(HOP_PROTOCOL)
    peer = field(1, bytes(base58.b58decode(peer_id)))
    await stream.write(delimited(field(1, _CONNECT) + field(_HOP_PEER, peer)))
    return await _status(stream), stream


def accept_circuits(stranger: Stranger, handler: Callable[[MuxedStream], Awaitable[None]]) -> None:
    """Take every circuit that a relay offers; `handler` has its bytes."""

    async def accept(connection: Connection, stream: MuxedStream) -> None:
        await read_delimited(stream)
        await stream.write(delimited(field(1, _STOP_STATUS_TYPE) + field(_STOP_STATUS, OK)))
        await handler(stream)

    stranger.serve(STOP_PROTOCOL, accept)


async def _status(channel: Channel) -> int:
    status = fields_of(await read_delimited(channel)).get(_HOP_STATUS, OK)
    assert isinstance(status, int)
    return status
