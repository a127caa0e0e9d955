"""Puts the Network over hivemind's DHT and p2pd together from the parts beside it. Importing it costs 1.3 s.

Owns in which order a peer starts and leaves. Knows nothing of records or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from p2pnet.config import NetworkConfig
from p2pnet.identity import Identity
from p2pnet.network.connections import Connections
from p2pnet.network.dht.calls import CallStream
from p2pnet.network.dht.node import DhtNode
from p2pnet.network.dht.serving import CallServer
from p2pnet.network.hivemind.joining import Joiner
from p2pnet.network.hivemind.maintenance import Maintenance
from p2pnet.network.hivemind.p2pd import P2pd
from p2pnet.network.hivemind.streams import Streams
from p2pnet.network.hivemind.supervisor import Supervisor
from p2pnet.network.interface import Clock, Entry, Findings, Meeting, Stream, StreamHandler, Validator


class HivemindNetwork:
    """See `interface.Network`. Make one with `start`."""

    def __init__(self, config: NetworkConfig, peer_id: str, validator: Validator, now_ms: Clock) -> None:
        self._p2pd = P2pd(config, peer_id)
        self._connections = Connections(self._p2pd.dial, self._p2pd.hang_up)
        self._connections.learn(config.initial_peers)
        self._streams = Streams(self._p2pd.open_socket, self._connections, config.open_timeout_s)
        self._dht = DhtNode(
            peer_id,
            is_client=config.is_dht_client,
            is_acceptable=validator,
            now_ms=now_ms,
            open_stream=self._open_call,
            own_addresses=lambda: self._p2pd.last_addresses,
            timeout_s=config.rpc_timeout_s,
        )
        self._joiner = Joiner(config, self._p2pd, self._dht, self._connections, now_ms)
        self._supervisor = Supervisor(config, self._p2pd, self._dht, self._connections)
        self._maintenance = Maintenance(self._supervisor, self._p2pd, self._joiner)

    @classmethod
    async def start(
        cls, config: NetworkConfig, identity: Identity, validator: Validator, now_ms: Clock
    ) -> HivemindNetwork:
        """Start p2pd and join. Raises DaemonFailed, or JoinError when initial peers are named and none is reachable."""
        self = cls(config, identity.peer_id, validator, now_ms)
        calls = CallServer()
        for protocol, answer in self._dht.methods().items():
            self._p2pd.will_serve(protocol, self._streams.serving_raw(partial(calls.serve, answer=answer)))
        await self._supervisor.start()
        try:
            await self._p2pd.keep_ports()
            await self._p2pd.addresses()
            await self._joiner.join()
            await self._joiner.wait_for_relay()
            await self._p2pd.addresses()
        except BaseException:
            await self._supervisor.stop()
            raise
        self._maintenance.start()
        return self

    @property
    def peer_id(self) -> str:
        return self._p2pd.peer_id

    @property
    def neighbours(self) -> int:
        return self._dht.neighbours

    @property
    def open_streams(self) -> int:
        return self._streams.count

    async def addresses(self) -> tuple[str, ...]:
        return await self._p2pd.addresses()

    async def meet(self, address: str) -> Meeting:
        return await self._joiner.meet(address)

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        await self._p2pd.serve(protocol, self._streams.serving(handler))

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        return await self._streams.open(peer_id, protocol, addresses)

    async def open_raw_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        return await self._streams.open_raw(peer_id, protocol, addresses)

    async def hang_up(self, peer_id: str) -> None:
        await self._connections.hang_up(peer_id)

    async def store(self, entries: Sequence[Entry]) -> int:
        return await self._dht.store(entries)

    async def fetch(self, keys: Sequence[str]) -> Findings:
        return await self._dht.fetch(keys)

    async def wait_changed(self) -> None:
        await self._maintenance.wait_changed()

    async def close(self) -> None:
        await self._maintenance.stop()
        await self._dht.stop()
        await self._streams.wait_parted()
        await self._supervisor.stop()

    async def _open_call(self, peer_id: str, protocol: str, claimed: Sequence[str]) -> CallStream:
        """A stream for a call of the DHT. Where others say that a node is comes second to where we know it to be."""
        is_known = peer_id in self._connections or self._connections.knows(peer_id)
        return await self._streams.open_raw(peer_id, protocol, () if is_known else claimed)
