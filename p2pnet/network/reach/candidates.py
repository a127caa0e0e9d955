"""Finds out where this peer might be dialled by somebody who is dialled by it at the same time.

Others say where they see us. Over QUIC all our packets leave from one port, so that a router which keeps one mapping
for all shows the same to everybody. Knows nothing of p2pd.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from p2pnet.network.crowd import Connection
from p2pnet.network.dial_addresses import Scope, scope_of_text
from p2pnet.network.libp2p.hole_punch import MAX_CANDIDATES
from p2pnet.network.multiaddrs import family_of, is_relayed, parts_of, without_peer_id

ASKED = 3
"""Peers that are asked where they see us."""

FRESH_S = 30.0
"""How long what they have said is believed: a router forgets a mapping that is not used for so long."""

Observed = Callable[[str], Awaitable[str | None]]
"""Where a peer sees us, as a multiaddr. Never raises."""


@dataclass(frozen=True)
class Candidates:
    """`addresses` are multiaddrs without a peer id, likeliest first; `hosts` the public ones that others see."""

    addresses: tuple[str, ...] = ()
    hosts: frozenset[str] = frozenset()


class OwnCandidates:
    """Those of one peer."""

    def __init__(
        self,
        connections: Callable[[], Awaitable[Sequence[Connection]]],
        visible: Callable[[], Awaitable[Sequence[str]]],
        observed: Observed,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._visible = visible
        self._observed = observed
        self._now_s = now_s
        self._found = Candidates()
        self._found_for: tuple[str, ...] = ()
        self._found_s = float("-inf")

    async def now(self) -> Candidates:
        """Raises what asking for connections raises."""
        visible = tuple(await self._visible())
        if visible != self._found_for or self._now_s() - self._found_s > FRESH_S:
            asked = peers_to_ask(await self._connections())
            seen = await asyncio.gather(*map(self._observed, asked))
            self._found = candidates(visible, [address for address in seen if address is not None])
            self._found_for, self._found_s = visible, self._now_s()
        return self._found


def peers_to_ask(connections: Iterable[Connection]) -> list[str]:
    """A few of those that we are connected to directly, over QUIC if there are such: they see where it leaves."""
    direct = [connection for connection in connections if not is_relayed(connection.address)]
    ranked = sorted(direct, key=lambda connection: "/udp/" not in connection.address)
    return list(dict.fromkeys(connection.peer_id for connection in ranked))[:ASKED]


def candidates(visible: Sequence[str], observed: Sequence[str]) -> Candidates:
    """Of a peer that p2pd believes to be `visible` at some addresses, and that others have `observed` at others.

    Where others have seen different ports of one host, its router takes another one for each, and none of them is of
    use to anybody else. A port that nobody has seen is guessed: most routers keep it. Public addresses of its own are
    named with TCP, too: the other end may have no QUIC, and can dial them.
    """
    own = [address for address in map(without_peer_id, visible) if is_quic(address)]
    open_to_all = [address for address in map(without_peer_id, visible) if is_plain(address) and _is_public(address)]
    hosts = dict.fromkeys(host for address in observed if (host := _host_of(address)) and not is_relayed(address))
    public = [host for host in hosts if scope_of_text(host) is Scope.PUBLIC]
    seen = [address for address in dict.fromkeys(observed) if is_quic(address)]
    steady = [address for address in seen if [_host_of(other) for other in seen].count(_host_of(address)) == 1]
    ports = dict.fromkeys((family_of(address), parts_of(address)[1][1]) for address in own)
    guessed = [
        f"/{family}/{host}/udp/{port}/quic-v1"
        for host in hosts
        for family, port in ports
        if family == ("ip6" if ":" in host else "ip4")
    ]
    return Candidates(tuple(dict.fromkeys([*steady, *guessed, *open_to_all, *own]))[:MAX_CANDIDATES], frozenset(public))


def is_quic(address: str) -> bool:
    return is_plain(address) and "/udp/" in address


def is_plain(address: str) -> bool:
    """Whether it is a host, a port, QUIC or TCP, and nothing more."""
    names = tuple(name for name, _ in parts_of(address))
    return names[0] in ("ip4", "ip6") and names[1:] in (("udp", "quic-v1"), ("tcp",))


def _host_of(address: str) -> str | None:
    """The IP address that it begins with, if it is one of a machine."""
    name, value = parts_of(address)[0]
    return value if name in ("ip4", "ip6") and scope_of_text(value) is not None else None


def _is_public(address: str) -> bool:
    host = _host_of(address)
    return host is not None and scope_of_text(host) is Scope.PUBLIC
