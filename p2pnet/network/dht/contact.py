"""Defines a contact: a node of the DHT, and where it says that it can be dialled.

Ids are integers of 160 bits, as hivemind's: a node's is the SHA-1 of its peer id, so nobody chooses a place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import base58
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pnet.network.multiaddrs import without_peer_id

ID_BYTES = 20
ID_BITS = 8 * ID_BYTES

MAX_ADDRESSES_OF_A_NODE = 4
"""Of one contact. A node that others can dial has one for TCP and one for QUIC, over IPv4 and IPv6."""

MAX_ADDRESS_BYTES = 64
"""Of one address in its binary form, without the peer id: twice the longest that is plain TCP or QUIC."""


@dataclass(frozen=True, slots=True)
class Contact:
    """`peer` is the binary peer id, `addresses` are binary multiaddrs without it: claims, and not parsed before use."""

    peer: bytes
    addresses: tuple[bytes, ...] = ()
    node_id: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "node_id", id_of(self.peer))

    @property
    def peer_id(self) -> str:
        return _text_of(self.peer)

    def full_addresses(self) -> tuple[str, ...]:
        """Its addresses as text that ends in its peer id; those that are no multiaddrs are left out."""
        found = (_multiaddr_of(address) for address in self.addresses)
        return tuple(f"{text}/p2p/{self.peer_id}" for text in found if text)


def id_of(data: bytes) -> int:
    """The place of a peer id, or of a key's name, in the space of ids."""
    return int.from_bytes(hashlib.sha1(data).digest(), "big")


def packed_id(node_id: int) -> bytes:
    return node_id.to_bytes(ID_BYTES, "big")


@lru_cache(maxsize=4096)
def peer_bytes(peer_id: str) -> bytes:
    """The binary form of a peer id. Raises ValueError when it has none."""
    peer: bytes = base58.b58decode(peer_id)
    return peer


@lru_cache(maxsize=16)
def packed_addresses(addresses: tuple[str, ...]) -> tuple[bytes, ...]:
    """Full multiaddrs of a peer's own as it tells them to others: relayed ones are of no use to the DHT."""
    plain = (Multiaddr(without_peer_id(address)).to_bytes() for address in addresses if "/p2p-circuit" not in address)
    return tuple(address for address in plain if len(address) <= MAX_ADDRESS_BYTES)[:MAX_ADDRESSES_OF_A_NODE]


@lru_cache(maxsize=4096)
def _text_of(peer: bytes) -> str:
    text: bytes = base58.b58encode(peer)
    return text.decode()


def _multiaddr_of(address: bytes) -> str:
    try:
        return str(Multiaddr(address))
    except (MultiaddrError, ValueError, LookupError, TypeError, IndexError):
        return ""
