"""Keeps this peer reachable over its p2pd: hands `network/reach` what it asks peers with, and its node of the DHT what
comes of it.

Owns which peers may relay for this one. Knows nothing of how places are held.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

import psutil

from p2pnet.config import NetworkConfig
from p2pnet.errors import P2PNetError
from p2pnet.network.connections import Connections
from p2pnet.network.dht.node import DhtNode
from p2pnet.network.dial_addresses import Scope
from p2pnet.network.hivemind.p2pd import P2PD_ERRORS, P2pd, reason
from p2pnet.network.hivemind.streams import Streams
from p2pnet.network.interface import Stream
from p2pnet.network.libp2p.relay import HOP_PROTOCOL, leads_to
from p2pnet.network.multiaddrs import is_private, is_relayed, parts_of, peer_id_of, relay_of
from p2pnet.network.reach.candidates import Candidates, OwnCandidates
from p2pnet.network.reach.held_relay import Candidate
from p2pnet.network.reach.knocking import answering
from p2pnet.network.reach.own_reach import OwnReach
from p2pnet.network.reach.punching import DIAL_S, Puncher
from p2pnet.network.reach.reachability import Reach, Reachability
from p2pnet.network.reach.relays import Relays
from p2pnet.network.reach.sight import Sight, look, seen_at

logger = logging.getLogger(__name__)

MAX_CANDIDATES = 16
"""Nodes of the DHT that are considered as relays, beside the initial peers."""

CIRCUIT_S = 3.0
"""For a relay to say whether it leads to a peer: it asks that peer."""

OBSERVED_S = 2.0
"""For a peer to say where it sees us: two round trips."""


class Reaching:
    """Of one peer. What it is asked for before `run` runs is what p2pd sees itself."""

    def __init__(
        self,
        config: NetworkConfig,
        scope: Scope,
        p2pd: P2pd,
        streams: Streams,
        connections: Connections,
        dht: DhtNode,
        changed: Callable[[], None],
        moved: Callable[[], None],
    ) -> None:
        self._config = config
        self._p2pd = p2pd
        self._streams = streams
        self._connections = connections
        self._dht = dht
        self._rng = random.Random()
        self._own_changed = changed
        self._moved = moved
        self._visible: tuple[str, ...] = ()
        self._hosts = frozenset[str]()
        """This machine's own addresses among those that were visible last."""
        self._left = frozenset[str]()
        """Those that it had before: p2pd names them for some seconds more."""
        self._public = frozenset[str]()
        """Where p2pd has believed to be dialled from elsewhere, since this machine came into this network."""
        reachability = Reachability(self._look, self._who_may_look, self._note, fixed_reach(config, scope))
        relays = Relays(p2pd.peer_id, self._candidates, self, scope, self._note)
        self._own: OwnReach = OwnReach(p2pd.peer_id, reachability, relays, scope)
        self._candidates_of_own = OwnCandidates(p2pd.connections, p2pd.addresses, self._observed)
        self.puncher = Puncher(self, scope, connections.is_direct)
        self._apply()

    @property
    def own(self) -> OwnReach:
        """How others reach this peer."""
        return self._own

    async def addresses(self) -> tuple[str, ...]:
        """Full multiaddrs through which others can reach this peer at this moment."""
        seen, own = await self._p2pd.addresses(), own_hosts()
        self._left = (self._left | self._hosts) - own
        visible = tuple(address for address in seen if host_of(address) not in self._left)
        if visible != self._visible:
            self._look_at_hosts(visible, own)
        return self._own.addresses(visible)

    def _look_at_hosts(self, visible: tuple[str, ...], own: frozenset[str]) -> None:
        """This peer may be dialled at other addresses than before. What others say of where they see it comes and
        goes."""
        hosts_before, self._visible = self._hosts, visible
        self._hosts = own & {host_of(address) for address in visible if not is_relayed(address)}
        public = frozenset(address for address in visible if not (is_relayed(address) or is_private(address)))
        new, self._public = public - self._public, self._public | public
        if hosts_before and has_moved(hosts_before, self._hosts):
            self._public = public
            self._own.note_moved()
            self.puncher.note_moved()
            self._moved()
        elif new and hosts_before:
            logger.info("this peer may be dialled at %s, too", ", ".join(sorted(new)))
            self._own.note_new_address()

    async def run(self) -> None:
        """Keep it reachable, until it is cancelled."""
        await self._own.run()

    # ---- how it reaches others

    async def open_raw(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        """A stream to a relay. What it is known by stays: `addresses` may be somebody else's claims."""
        return await self._streams.open_raw(peer_id, protocol, () if self._connections.knows(peer_id) else addresses)

    async def hang_up(self, peer_id: str) -> None:
        await self._connections.hang_up(peer_id)

    async def knock(self, addresses: Sequence[str]) -> bool:
        """Whether anybody answers at any of these full multiaddrs, directly or through a relay. Never raises."""
        return not addresses or bool(await self.answering(addresses))

    async def answering(self, addresses: Sequence[str]) -> Sequence[str]:
        """Those of a peer's full multiaddrs where somebody answers, see `knocking.answering`. Never raises."""
        return await answering(addresses, self._is_behind)

    async def _is_behind(self, circuit: str) -> bool:
        """Whether the relay of a circuit address leads to its peer now."""
        relay, peer_id = relay_of(circuit), peer_id_of(circuit)
        assert relay is not None and peer_id is not None, "it is a full circuit address"
        try:
            async with asyncio.timeout(CIRCUIT_S):
                stream = await self.open_raw(relay, HOP_PROTOCOL, (circuit.split("/p2p-circuit")[0],))
                try:
                    return await leads_to(stream, peer_id)
                finally:
                    stream.close()
        except (P2PNetError, *P2PD_ERRORS):
            return False

    async def open_toward(self, peer_id: str, protocol: str, addresses: Sequence[str]) -> Stream:
        return await self._streams.open_raw(peer_id, protocol, addresses)

    async def hang_up_for_now(self, peer_id: str) -> None:
        await self._connections.hang_up(peer_id, for_now=True)

    async def dial_at(self, peer_id: str, addresses: Sequence[str]) -> None:
        try:
            await self._p2pd.dial(peer_id, addresses, DIAL_S)
        except P2PD_ERRORS as error:
            raise OSError(reason(error)) from error

    async def is_direct(self, peer_id: str) -> bool:
        try:
            connections = await self._p2pd.connections()
        except P2PD_ERRORS as error:
            raise OSError(reason(error)) from error
        return any(each.peer_id == peer_id and not is_relayed(each.address) for each in connections)

    def is_in_use(self, peer_id: str, besides: Stream | None = None) -> bool:
        return self._streams.is_in_use(peer_id, besides)

    async def candidates(self) -> Candidates:
        try:
            return await self._candidates_of_own.now()
        except P2PD_ERRORS as error:
            raise OSError(reason(error)) from error

    # ---- what it asks, and whom

    async def _observed(self, peer_id: str) -> str | None:
        """Where a peer sees us."""
        return await seen_at(self._streams.open_raw, peer_id, OBSERVED_S)

    async def _look(self, peer_id: str) -> Sight:
        visible = await self._p2pd.addresses()
        return await look(self._streams.open_raw, peer_id, self._p2pd.peer_id, visible)

    def _who_may_look(self) -> list[str]:
        """Peers that we joined through, and nodes of the DHT."""
        named = (peer_id_of(address) for address in self._config.initial_peers)
        known = {peer_id for peer_id in named if peer_id} | self._dht.neighbour_ids()
        return sorted(known - {self._p2pd.peer_id})

    def _candidates(self) -> list[Candidate]:
        """Those that may relay: first those that we joined through, then nodes of the DHT, which others can dial. The
        former may have more addresses than they were named with, which they say as nodes."""
        named: dict[str, list[str]] = {}
        for address in self._config.initial_peers:
            if not is_relayed(address) and (peer_id := peer_id_of(address)) is not None:
                named.setdefault(peer_id, []).append(address)
        known = {node.peer_id: node for node in self._dht.contacts() if node.addresses}
        for peer_id, addresses in named.items():
            addresses += known.pop(peer_id).full_addresses() if peer_id in known else ()
        nodes = list(known.values())
        chosen = self._rng.sample(nodes, min(len(nodes), MAX_CANDIDATES))
        return [
            *(Candidate(peer_id, tuple(dict.fromkeys(addresses))) for peer_id, addresses in named.items()),
            *(Candidate(node.peer_id, node.full_addresses()) for node in chosen),
        ]

    def _note(self) -> None:
        """Something was learnt, or a relay won or lost."""
        self._apply()
        self._own_changed()

    def _apply(self) -> None:
        self._own.note_changed()
        self._dht.is_client = self._config.is_client or not self._own.is_direct


def own_hosts() -> frozenset[str]:
    """This machine's IP addresses."""
    return frozenset(each.address for addresses in psutil.net_if_addrs().values() for each in addresses)


def has_moved(before: frozenset[str], now: frozenset[str]) -> bool:
    """Whether a machine that had some addresses, and has others now, is in another network. IPv6 addresses come and go
    while it stays where it is (RFC 8981): while one is left, it is there."""
    (four_before, six_before), (four, six) = map(_by_family, (before, now))
    return four_before != four or bool(six_before and six_before.isdisjoint(six))


def _by_family(hosts: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    six = frozenset(host for host in hosts if ":" in host)
    return hosts - six, six


def host_of(address: str) -> str:
    return parts_of(address)[0][1]


def fixed_reach(config: NetworkConfig, scope: Scope) -> Reach | None:
    """What needs no asking: its user says so, it needs not be reached, or it is in a network of one house or machine,
    where no peer dials back. None: it has to be found out."""
    if config.is_behind_nat and not config.is_bootstrap:
        return Reach.HIDDEN
    is_near = scope is not Scope.PUBLIC
    return Reach.DIRECT if is_near or config.is_client or config.is_known_to_be_reached else None
