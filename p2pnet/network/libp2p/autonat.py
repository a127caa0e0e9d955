"""Asks other peers how they see this one, and whether they can dial it.

Speaks libp2p's own identify and AutoNAT, which every p2pd answers: the peer that is asked dials no address but the one
that our connection comes from, and few in a minute, so nobody can be made to dial a third party. Knows nothing of p2pd:
it is handed streams. https://github.com/libp2p/specs/blob/master/autonat/autonat-v1.md
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import base58
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pnet.network.interface import Stream
from p2pnet.network.libp2p.delimited import read_message
from p2pnet.network.libp2p.protobuf import delimited, field, fields_of
from p2pnet.network.multiaddrs import is_relayed, parts_of, without_peer_id

IDENTIFY_PROTOCOL = "/ipfs/id/1.0.0"
AUTONAT_PROTOCOL = "/libp2p/autonat/1.0.0"

TRANSPORTS = {"tcp": "TCP", "udp": "QUIC"}
"""What runs over each, as a person calls it."""

_IDENTIFY_OBSERVED = 4
_DIAL = 2
_DIAL_RESPONSE = 3
_STATUS = 1


class DialBack(Enum):
    """What came of being dialled."""

    REACHED = "reached"
    NOT_REACHED = "not reached"
    NOT_TRIED = "not tried"
    """Refused: asked too often, or at an address that nobody dials (of a private network)."""


_OUTCOMES = {0: DialBack.REACHED, 100: DialBack.NOT_REACHED}
"""By AutoNAT's status: OK, E_DIAL_ERROR. Whatever else comes, nothing was dialled."""


async def observed_address(stream: Stream) -> str | None:
    """Where the other end sees us, as a multiaddr. None when its answer makes no sense. `stream` is of
    IDENTIFY_PROTOCOL."""
    message = await read_message(stream) or b""
    try:
        observed = fields_of(message).get(_IDENTIFY_OBSERVED, b"")
        if not isinstance(observed, bytes) or not observed:
            return None
        address = str(Multiaddr(observed))
        parts_of(address)
        return address
    except (IndexError, ValueError, LookupError, TypeError, MultiaddrError):
        return None


async def dial_back(stream: Stream, peer_id: str, addresses: Sequence[str]) -> DialBack:
    """Have the other end dial us at these addresses, of which it tries those with the IP address that it sees us at.
    Takes up to 15 s when packets are dropped on the way. `stream` is of AUTONAT_PROTOCOL."""
    await stream.write(delimited(dial_request(peer_id, addresses)))
    message = await read_message(stream) or b""
    try:
        response = fields_of(message).get(_DIAL_RESPONSE, b"")
        status = fields_of(response).get(_STATUS, 0) if isinstance(response, bytes) and response else None
    except (IndexError, ValueError):
        return DialBack.NOT_TRIED
    return _OUTCOMES.get(status, DialBack.NOT_TRIED) if isinstance(status, int) else DialBack.NOT_TRIED


def dialable(observed: str, own: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By transport, where we can be dialled if nothing stands in between: at the host that others see, on the ports of
    our `own` addresses."""
    family, host = parts_of(observed)[0]
    found: dict[str, dict[str, None]] = {}
    for address in own:
        parts = parts_of(address)
        if not is_relayed(address) and parts[0][0] == family and parts[1][0] in TRANSPORTS:
            rest = without_peer_id(address).split("/", 3)[3]
            found.setdefault(TRANSPORTS[parts[1][0]], {})[f"/{family}/{host}/{rest}"] = None
    return {transport: tuple(addresses) for transport, addresses in sorted(found.items(), reverse=True)}


def dial_request(peer_id: str, addresses: Sequence[str]) -> bytes:
    """AutoNAT's Message: type DIAL, and whom to dial where."""
    peer = field(1, base58.b58decode(peer_id))
    peer += b"".join(field(2, Multiaddr(address).to_bytes()) for address in addresses)
    return field(1, 0) + field(_DIAL, field(1, peer))
