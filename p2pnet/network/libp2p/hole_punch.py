"""The messages by which two peers agree to dial one another at the same time: those of libp2p's DCUtR.

Functions of bytes. Whoever speaks the protocol is in `reach/punching`, under a name of its own: p2pd answers libp2p's.
https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pnet.network.libp2p.protobuf import delimited, each_field, field

MAX_CANDIDATES = 8
"""Addresses that one end names: seen by others, guessed and its own, over IPv4 and IPv6."""

_MAX_FIELDS = 2 * MAX_CANDIDATES
_TYPE, _ADDRESS = 1, 2
_CONNECT, _SYNC = 100, 300


def connect(addresses: Iterable[str]) -> bytes:
    """Where this end may be dialled: multiaddrs without a peer id."""
    named = list(addresses)[:MAX_CANDIDATES]
    return delimited(
        field(_TYPE, _CONNECT) + b"".join(field(_ADDRESS, Multiaddr(address).to_bytes()) for address in named)
    )


def sync() -> bytes:
    """Dial now."""
    return delimited(field(_TYPE, _SYNC))


def addresses_in(message: bytes) -> tuple[str, ...]:
    """Those that a CONNECT names, as text, without those that are no multiaddrs. Raises ValueError when it is none."""
    fields = _fields(message)
    if (_TYPE, _CONNECT) not in fields:
        raise ValueError("not a CONNECT")
    return tuple(_texts(value for number, value in fields if number == _ADDRESS))[:MAX_CANDIDATES]


def is_sync(message: bytes) -> bool:
    try:
        return (_TYPE, _SYNC) in _fields(message)
    except ValueError:
        return False


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    try:
        return list(each_field(message, at_most=_MAX_FIELDS))
    except IndexError as error:
        raise ValueError("cut off") from error


def _texts(packed: Iterable[int | bytes]) -> Iterator[str]:
    for address in packed:
        try:
            yield str(Multiaddr(address))
        except (MultiaddrError, ValueError, LookupError, TypeError):
            continue
