"""Keeps p2pd within bounds, from outside: its connections, circuits that nobody uses, its memory, and how long it says
nothing.

p2pd has no limits of its own. Knows nothing of how a p2pd that was ended is started again: see `maintenance`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from p2pnet.config import NetworkConfig
from p2pnet.network.connections import Connections
from p2pnet.network.crowd import Connection, Crowd
from p2pnet.network.hivemind.daemon import is_known_public
from p2pnet.network.hivemind.p2pd import P2PD_ERRORS, P2pd
from p2pnet.network.hivemind.returned_peers import ReturnedPeers
from p2pnet.network.hivemind.streams import Streams
from p2pnet.network.multiaddrs import is_relayed
from p2pnet.network.relaying.relay import Relay

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.5
"""What comes in between is what p2pd takes unseen: some 400 connections, or 100 MB of what strangers have it hold."""

MIN_LIFE_S = 20.0
"""A p2pd that has grown too far again so soon is only ended at twice its bound: being started again all the time would
serve nobody."""

MAX_UNANSWERED = 3
"""Questions in a row. A p2pd that lives and answers none of them hangs: without it nobody reaches this peer."""

STRAINED = 0.22
STRAINED_RELAY = 0.5
"""The part of its bound on memory above which p2pd parts from those that it has no stream with. What libp2p's own
protocols hold for whom cannot be seen; but who is served, or serves us, has a stream. With its default bound, a
thousand streams or connections stay below the first, and a thousand busy circuits below the second."""

USEFUL_S = 10.0
"""Who has had a stream so lately is not parted from: a gateway's requests are short, and it probes as often."""

STRAINED_PAUSE_S = 2.0
"""Then it is seen what that has helped, before more are parted from."""

IDLE_CIRCUIT_S = 60.0
"""A relayed connection without a stream for so long is closed: it costs the relay a circuit, and another one is made in
half a second. Who is of use is probed more often than this."""

PARTING_AT_ONCE = 64
"""Peers that are parted from at the same time: each is a question to p2pd."""


class Bounds:
    """Looks twice a second, for as long as `run` runs."""

    def __init__(
        self,
        p2pd: P2pd,
        streams: Streams,
        connections: Connections,
        returned: ReturnedPeers,
        relay: Relay,
        config: NetworkConfig,
    ) -> None:
        self._p2pd = p2pd
        self._streams = streams
        self._connections = connections
        self._max_bytes = config.max_p2pd_bytes
        self._strained_bytes = (STRAINED_RELAY if is_known_public(config) else STRAINED) * config.max_p2pd_bytes
        self._crowd = Crowd(config.max_connections)
        self._returned = returned
        self._relay = relay
        self._relayed_since_s: dict[str, float] = {}
        self._unanswered = 0
        self._ended_s = float("-inf")
        self._relieved_s = float("-inf")

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(LOOK_INTERVAL_S)
                try:
                    await self.look(loop.time())
                except P2PD_ERRORS as error:
                    logger.debug("p2pd did not answer: %s", error)
        finally:
            await self._returned.stop()

    async def look(self, now_s: float) -> None:
        """Once. Raises one of P2PD_ERRORS."""
        size = self._p2pd.memory_bytes()
        if self._is_too_large(size, now_s):
            self._ended_s = now_s
            self._p2pd.kill()
            return
        connections = await self._asked()
        self._returned.look(connections)
        self._relay.look({connection.peer_id for connection in connections})
        crowd = self._crowd.too_many(connections, self._streams.peers_opened_to())
        if crowd:
            logger.warning("parting from %d peers: there are %d connections", len(crowd), len(connections))
        idle = self._idle(connections, now_s)
        useless = self._useless(connections, now_s) if size > self._strained_bytes else []
        await self._part_from(list(dict.fromkeys([*crowd, *idle, *useless])))

    async def _asked(self) -> list[Connection]:
        """All connections. A p2pd that says nothing for too long is ended."""
        try:
            connections = await self._p2pd.connections()
        except TimeoutError:
            self._unanswered += 1
            if self._unanswered >= MAX_UNANSWERED:
                logger.warning("p2pd runs and has answered nothing for a while: it is ended")
                self._unanswered = 0
                self._p2pd.kill()
            raise
        self._unanswered = 0
        return connections

    def _is_too_large(self, size: int, now_s: float) -> bool:
        allowed = self._max_bytes if now_s - self._ended_s > MIN_LIFE_S else 2 * self._max_bytes
        if size > allowed:
            logger.warning("p2pd has %d MB, %d MB allowed: it is ended", size >> 20, allowed >> 20)
        return size > allowed

    def _idle(self, connections: Sequence[Connection], now_s: float) -> list[str]:
        """Peers that are connected through relays only, and have had no stream for a while."""
        direct = {connection.peer_id for connection in connections if not is_relayed(connection.address)}
        relayed = {connection.peer_id for connection in connections} - direct - self._streams.peers()
        self._relayed_since_s = {peer: self._relayed_since_s.get(peer, now_s) for peer in relayed}
        return [
            peer
            for peer, since_s in self._relayed_since_s.items()
            if now_s - max(since_s, self._streams.last_used_s(peer)) > IDLE_CIRCUIT_S
        ]

    def _useless(self, connections: Sequence[Connection], now_s: float) -> list[str]:
        """Peers without a stream for a while, the last that came: whoever makes p2pd grow is among them."""
        if now_s - self._relieved_s < STRAINED_PAUSE_S:
            return []
        self._relieved_s = now_s
        useless = self._crowd.newest(
            {
                connection.peer_id
                for connection in connections
                if now_s - self._streams.last_used_s(connection.peer_id) > USEFUL_S
            }
            - self._streams.peers()
        )
        logger.warning("p2pd is large: parting from %d peers of %d connections", len(useless), len(connections))
        return useless

    async def _part_from(self, peers: Sequence[str]) -> None:
        for start in range(0, len(peers), PARTING_AT_ONCE):
            await asyncio.gather(*map(self._connections.hang_up, peers[start : start + PARTING_AT_ONCE]))
