"""Puts the Network over hivemind's DHT and p2pd together from the parts beside it.

Owns in which order a peer starts and leaves. Knows nothing of records or models.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from p2pnet.config import NetworkConfig
from p2pnet.flow.background import Background
from p2pnet.identity import Identity
from p2pnet.network.clock_watch import ClockState, ClockWatch
from p2pnet.network.connections import Connections
from p2pnet.network.dht.node import DhtNode
from p2pnet.network.dht.serving import CallServer
from p2pnet.network.dial_addresses import Scope, scope_of_network
from p2pnet.network.hivemind.bounds import Bounds
from p2pnet.network.hivemind.joining import Joiner
from p2pnet.network.hivemind.maintenance import Maintenance
from p2pnet.network.hivemind.names import resolved
from p2pnet.network.hivemind.p2pd import P2pd
from p2pnet.network.hivemind.reaching import Reaching
from p2pnet.network.hivemind.record_addresses import RecordAddresses
from p2pnet.network.hivemind.returned_peers import ReturnedPeers
from p2pnet.network.hivemind.streams import Streams
from p2pnet.network.hivemind.supervisor import Supervisor
from p2pnet.network.interface import (
    BareStream,
    Clock,
    Entry,
    Findings,
    Meeting,
    Relayed,
    Stream,
    StreamHandler,
    Validator,
)
from p2pnet.network.libp2p.relay import HOP_PROTOCOL
from p2pnet.network.reach.punching import PUNCH_PROTOCOL
from p2pnet.network.relaying.relay import Relay

logger = logging.getLogger(__name__)


class HivemindNetwork:
    """See `interface.Network`. Make one with `start`."""

    def __init__(self, config: NetworkConfig, peer_id: str, validator: Validator, now_ms: Clock, scope: Scope) -> None:
        self._p2pd = P2pd(config, peer_id)
        self._record_addresses = RecordAddresses(self.addresses, scope)
        self._connections = Connections(
            self._p2pd.dial,
            self._p2pd.hang_up,
            config.initial_peers,
            scope,
            knock=lambda addresses: self._reaching.answering(addresses),
        )
        self._streams = Streams(self._p2pd.open_socket, self._connections, config.open_timeout_s)
        self._p2pd.inbound.give_up_idle = self._streams.give_up_idle
        self._dht = DhtNode(
            peer_id,
            is_client=config.is_client,
            is_acceptable=validator,
            now_ms=now_ms,
            open_stream=self._open_call,
            own_addresses=lambda: self._record_addresses.last,
            timeout_s=config.rpc_timeout_s,
        )
        self._answers = self._dht.methods()
        self._joiner = Joiner(config, self._p2pd, self._dht, self._connections, now_ms)
        self._clock_watch = ClockWatch(self._joiner.other_clocks, now_ms)
        self._background = Background()
        self._supervisor = Supervisor(self._p2pd, self._dht, self._connections)
        self._reaching = Reaching(
            config,
            scope,
            self._p2pd,
            self._streams,
            self._connections,
            self._dht,
            changed=lambda: self._maintenance.note_changed(),
            moved=self._note_moved,
        )
        self._relay = Relay(
            config.relay,
            self._streams.open_for_others,
            lambda: self._record_addresses.last,
            may_relay=lambda: config.relays_for_others and not config.is_client and self._reaching.own.is_direct,
        )
        self._returned = ReturnedPeers(self._reaching)
        bounds = Bounds(self._p2pd, self._streams, self._connections, self._returned, self._relay, config)
        self._maintenance = Maintenance(
            self._supervisor, self._p2pd, self._joiner, self._connections, self._record_addresses, bounds
        )

    @classmethod
    async def start(
        cls, config: NetworkConfig, identity: Identity, validator: Validator, now_ms: Clock
    ) -> HivemindNetwork:
        """Start p2pd and join. Raises DaemonFailed, or JoinError when initial peers are named and none is reachable."""
        scope = scope_of_network(await resolved(config.initial_peers))
        self = cls(config, identity.peer_id, validator, now_ms, scope)
        calls = CallServer()
        for protocol, answer in self._answers.items():
            self._p2pd.will_serve(protocol, self._streams.serving_raw(partial(calls.serve, answer=answer)))
        # Also where it relays for nobody: p2pd would do it instead, once it is told that it is public.
        self._p2pd.will_serve(HOP_PROTOCOL, self._streams.serving_raw(self._relay.serve))
        self._p2pd.will_serve(PUNCH_PROTOCOL, self._streams.serving_raw(self._reaching.puncher.serve))
        await self._supervisor.start()
        try:
            await self._p2pd.keep_ports()
            await self._record_addresses.look()
            await self._joiner.join()
            self._background.keep("looking after how this peer is reached", self._reaching.run)
            if not await self._reaching.own.settled():
                logger.warning("nobody can reach this peer yet: it cannot be dialled, and no peer relays for it")
            await self._record_addresses.look()
        except BaseException:
            await self._background.stop()
            await self._supervisor.stop()
            raise
        self._maintenance.start()
        self._background.keep("watching this machine's clock", self._clock_watch.run)
        return self

    @property
    def peer_id(self) -> str:
        return self._p2pd.peer_id

    @property
    def neighbours(self) -> int:
        return self._dht.neighbours

    def is_direct_to(self, peer_id: str) -> bool | None:
        return self._connections.is_direct(peer_id)

    @property
    def relayed(self) -> Relayed:
        return self._relay.relayed

    @property
    def open_streams(self) -> int:
        return self._streams.count

    async def addresses(self) -> tuple[str, ...]:
        return await self._reaching.addresses()

    @property
    def is_direct(self) -> bool:
        return self._reaching.own.is_direct

    async def record_addresses(self) -> tuple[str, ...]:
        return await self._record_addresses.look()

    async def meet(self, address: str) -> Meeting:
        self._connections.name([address])
        return await self._joiner.meet(address)

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        await self._p2pd.serve(protocol, self._streams.serving(handler))

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        await self._reaching.puncher.before_stream(peer_id, addresses)
        return await self._streams.open(peer_id, protocol, addresses)

    def wants_new_stream(self, peer_id: str, addresses: Sequence[str]) -> bool:
        if self._connections.has_moved(peer_id, addresses):
            return True
        self._connections.learn(addresses)
        return self._reaching.puncher.is_due(peer_id, addresses)

    async def open_raw_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        return await self._streams.open_raw(peer_id, protocol, addresses)

    async def hang_up(self, peer_id: str) -> None:
        await self._connections.hang_up(peer_id)

    @property
    def clock(self) -> ClockState:
        return self._clock_watch.state

    async def store(self, entries: Sequence[Entry]) -> int:
        return await self._dht.store(entries)

    async def fetch(self, keys: Sequence[str]) -> Findings:
        return await self._dht.fetch(keys)

    def held(self, key: str) -> int:
        return self._dht.held(key)

    async def wait_changed(self) -> None:
        await self._maintenance.wait_changed()

    async def close(self) -> None:
        await self._maintenance.stop()
        await self._background.stop()
        await self._reaching.puncher.stop()
        await self._dht.stop()
        await self._streams.wait_parted()
        await self._supervisor.stop()

    def _note_moved(self) -> None:
        """This machine has lost an address: connections from there are dead, and nobody was asked over them."""
        self._returned.doubt_all()
        self._dht.doubt_silences()

    async def _open_call(self, peer_id: str, protocol: str, claimed: Sequence[str]) -> BareStream:
        """A stream for a call of the DHT. Where others say that a node is comes second to where we know it to be."""
        is_known = peer_id in self._connections or self._connections.knows(peer_id)
        return await self._streams.open_raw(peer_id, protocol, () if is_known else claimed)
