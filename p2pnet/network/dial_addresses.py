"""Says which addresses a record may name, and which of them a peer of this network dials. Functions of text alone.

A record makes everybody who reads it dial what it names, so little may be named: a host and a port, over TCP or QUIC,
or a relay that is reached so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from p2pnet.network.multiaddrs import is_relayed, parts_of, relay_of, worth_announcing

MAX_ADDRESSES = 8
"""TCP and QUIC over IPv4 and IPv6, and as many again through relays."""

MAX_RELAYED = MAX_ADDRESSES // 2
"""Of those, when there are direct ones, too."""

_CLASSIFIED = 1 << 14
"""Addresses whose parts are remembered: those of two thousand workers are looked at again and again."""

_DIRECT = (("tcp",), ("udp", "quic-v1"))
_ENDS = (("p2p",), ("p2p", "p2p-circuit", "p2p"))

_LEADS_TO_IPV4 = tuple(map(ipaddress.IPv6Network, ("2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48")))
"""6to4, Teredo and NAT64 have an IPv4 address in them, of whatever range."""


class Scope(IntEnum):
    """Where an address can be dialled; and of a network, how near its addresses may be."""

    PUBLIC = 0
    PRIVATE = 1
    """Home and company networks, and what is set aside for other uses."""
    LOOPBACK = 2


@dataclass(frozen=True)
class Place:
    """Where a dial goes: a host and a port, TCP and QUIC alike, and the peer that should be found there: a relay's own
    id where the address leads through one."""

    host: str
    port: int
    peer_id: str


@lru_cache(_CLASSIFIED)
def place_of(address: str) -> Place | None:
    """None when this is no address that a record may name. Raises ValueError when it is no multiaddr."""
    (family, host), *rest = parts_of(address)
    names = tuple(name for name, _ in rest)
    has_form = family in ("ip4", "ip6") and any(names == direct + end for direct in _DIRECT for end in _ENDS)
    if not has_form or int(rest[0][1]) == 0:
        return None
    return Place(_plain(host), int(rest[0][1]), next(value for name, value in rest if name == "p2p"))


@lru_cache(_CLASSIFIED)
def scope_of_host(host: str) -> Scope | None:
    """Of an IP address. None for one that nobody is to dial: not one machine's, or not a whole address."""
    ip = ipaddress.ip_address(_plain(host))
    if ip.version == 6 and any(ip in network for network in _LEADS_TO_IPV4):
        return None
    if ip.is_loopback:
        return Scope.LOOPBACK
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local or ip.is_reserved or ip in _THIS_NETWORK:
        return None
    return Scope.PUBLIC if ip.is_global else Scope.PRIVATE


def scope_of_text(text: str) -> Scope | None:
    """The same of what may be no IP address at all (a MAC address, an IPv6 one with its zone): None then, too."""
    try:
        return scope_of_host(text)
    except ValueError:
        return None


def _plain(host: str) -> str:
    """One spelling for each address, IPv4 within IPv6 among them."""
    ip = ipaddress.ip_address(host)
    return str(getattr(ip, "ipv4_mapped", None) or ip)


_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
"""Linux takes 0.0.0.0 for loopback."""


def may_dial(address: str, scope: Scope) -> bool:
    """Whether a peer of a network of this scope dials the address because a record names it. It dials no nearer than
    the network is: on a public one, nobody is sent to his own router. Raises ValueError when it is no multiaddr."""
    place = place_of(address)
    found = None if place is None else scope_of_host(place.host)
    return found is not None and found <= scope


def scope_of_network(named: Sequence[str]) -> Scope:
    """That of the nearest address which a peer was told to join through, which its user knows; where it was told none,
    all are dialled. A name that stands for nothing says nothing."""
    if not named:
        return Scope.LOOPBACK
    hosts = (value for (name, value), *_ in map(parts_of, named) if name in ("ip4", "ip6"))
    return max((found for host in hosts if (found := scope_of_host(host)) is not None), default=Scope.PUBLIC)


def worth_recording(addresses: Iterable[str], scope: Scope) -> tuple[str, ...]:
    """Which of a peer's addresses its record names, best first: those that others dial, some direct and some through
    relays, of as many relays as possible."""
    fitting = [address for address in worth_announcing(addresses) if may_dial(address, scope)]
    direct = [address for address in fitting if not is_relayed(address)]
    relayed = _in_turn([address for address in fitting if is_relayed(address)])
    kept = direct[: MAX_ADDRESSES - min(len(relayed), MAX_RELAYED)]
    return (*kept, *relayed[: MAX_ADDRESSES - len(kept)])


def _in_turn(relayed: Sequence[str]) -> list[str]:
    """The first through each relay, then the second, and so on."""
    seen: dict[str | None, int] = {}
    turns: list[tuple[int, str]] = []
    for address in relayed:
        relay = relay_of(address)
        turns.append((seen.setdefault(relay, 0), address))
        seen[relay] += 1
    return [address for _, address in sorted(turns, key=lambda turn: turn[0])]
