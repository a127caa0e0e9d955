"""Keeps a peer in the network: brings it back when p2pd dies, and looks after its addresses and initial peers.

Owns when that is done, and tells who waits for it that something has changed. Knows nothing of how it is done.
"""

from __future__ import annotations

import asyncio
import logging

from p2pnet.network.connections import Connections
from p2pnet.network.hivemind.joining import Joiner
from p2pnet.network.hivemind.p2pd import P2PD_ERRORS, P2pd
from p2pnet.network.hivemind.record_addresses import RecordAddresses
from p2pnet.network.hivemind.supervisor import Supervisor

logger = logging.getLogger(__name__)

MAINTENANCE_INTERVAL_S = 1.0
"""How often our addresses and connections are looked at: a relay reservation shows up within this time, and so does
where a peer was found."""

REJOIN_INTERVAL_S = 5.0
"""How often initial peers that are not in our routing table are asked again: a bootstrap that returns is found soon."""


class Maintenance:
    """Two tasks that end with `stop`."""

    def __init__(
        self,
        supervisor: Supervisor,
        p2pd: P2pd,
        joiner: Joiner,
        connections: Connections,
        record_addresses: RecordAddresses,
    ) -> None:
        self._connections = connections
        self._record_addresses = record_addresses
        self._supervisor = supervisor
        self._p2pd = p2pd
        self._joiner = joiner
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with it, in a network that has been joined."""
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._look_after())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_changed(self) -> None:
        """Wait until this peer's addresses, or its place in the network, have changed."""
        await self._changed.wait()
        self._changed.clear()

    async def _supervise(self) -> None:
        """Bring the peer back whenever p2pd dies."""
        while True:
            await self._supervisor.revive()
            await self._joiner.rejoin()
            logger.info("p2pd runs again, as the same peer")
            self._changed.set()

    async def _look_after(self) -> None:
        """Notice new addresses of ours, and initial peers that have come back."""
        loop = asyncio.get_running_loop()
        last_rejoin_s = loop.time()
        while True:
            await asyncio.sleep(MAINTENANCE_INTERVAL_S)
            try:
                before = (self._p2pd.last_addresses, self._record_addresses.last)
                recorded = await self._record_addresses.look()
                if (self._p2pd.last_addresses, recorded) != before:
                    self._changed.set()
                self._connections.note_live(await self._p2pd.connected())
                if loop.time() - last_rejoin_s >= REJOIN_INTERVAL_S:
                    await self._joiner.remember_neighbours()
                    if await self._joiner.rejoin():
                        self._changed.set()
                    last_rejoin_s = loop.time()
            except P2PD_ERRORS as error:
                logger.debug("p2pd did not answer: %s", error)
