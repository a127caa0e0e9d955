"""Asks a relay for a reservation, and reads the limits that it really grants.

Knows nothing of p2pd: it is handed a stream. https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pnet.network.interface import Stream
from p2pnet.network.libp2p.delimited import read_message
from p2pnet.network.libp2p.protobuf import fields_of

HOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"

_RESERVE = bytes([2, 0x08, 0x00])
"""Length 2, then HopMessage: type (field 1) = RESERVE (0)."""

_HOP_LIMIT = 4
_HOP_STATUS = 5
_STATUS_OK = 100
_LIMIT_DURATION_S = 1
_LIMIT_DATA_BYTES = 2


@dataclass(frozen=True)
class GrantedLimits:
    """What a relay cuts a circuit at. None: it does not."""

    duration_s: int | None
    data_bytes: int | None


async def granted_limits(stream: Stream) -> GrantedLimits | None:
    """Ask for a reservation over `stream`, which was opened for HOP_PROTOCOL. None when it is refused, or the answer
    makes no sense."""
    await stream.write(_RESERVE)
    message = await read_message(stream)
    return None if message is None else _limits_in(message)


def _limits_in(message: bytes) -> GrantedLimits | None:
    try:
        answer = fields_of(message)
        if answer.get(_HOP_STATUS, _STATUS_OK) != _STATUS_OK:
            return None
        limit = answer.get(_HOP_LIMIT, b"")
        values = fields_of(limit) if isinstance(limit, bytes) else {}
    except (IndexError, ValueError):
        return None
    duration_s, data_bytes = values.get(_LIMIT_DURATION_S), values.get(_LIMIT_DATA_BYTES)
    return GrantedLimits(
        duration_s if isinstance(duration_s, int) else None, data_bytes if isinstance(data_bytes, int) else None
    )
