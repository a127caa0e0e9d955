"""Keeps a peer in the network: brings it back when p2pd dies, looks after its addresses, initial peers and bounds.

Owns when that is done, and tells who waits for it that something has changed. Knows nothing of how it is done.
"""

from __future__ import annotations

import asyncio
import logging

from p2pnet.flow.background import Background, Sleep
from p2pnet.network.connections import Connections
from p2pnet.network.hivemind.bounds import Bounds
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
    """Four loops that end with `stop`, and with nothing else."""

    def __init__(
        self,
        supervisor: Supervisor,
        p2pd: P2pd,
        joiner: Joiner,
        connections: Connections,
        record_addresses: RecordAddresses,
        bounds: Bounds,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._connections = connections
        self._record_addresses = record_addresses
        self._supervisor = supervisor
        self._p2pd = p2pd
        self._joiner = joiner
        self._bounds = bounds
        self._sleep = sleep
        self._changed = asyncio.Event()
        self._background = Background(sleep)

    def start(self) -> None:
        """Begin with it, in a network that has been joined."""
        self._background.keep("looking after p2pd", self._supervise)
        self._background.keep("looking after addresses", self._look_after)
        self._background.keep("looking for initial peers", self._look_for_initial_peers)
        self._background.keep("keeping p2pd within bounds", self._bounds.run)

    async def stop(self) -> None:
        await self._background.stop()

    def note_changed(self) -> None:
        """It is reached otherwise than before."""
        self._changed.set()

    async def wait_changed(self) -> None:
        """Wait until this peer's addresses, or its place in the network, have changed."""
        await self._changed.wait()
        self._changed.clear()

    async def _supervise(self) -> None:
        """Bring the peer back whenever p2pd dies."""
        while True:
            await self._supervisor.revive()
            try:
                await self._joiner.rejoin()
            except Exception:  # it is tried again soon, and whatever it was, p2pd may die again
                logger.exception("p2pd runs again, but the network was not joined")
            else:
                logger.info("p2pd runs again, as the same peer")
            self._changed.set()

    async def _look_after(self) -> None:
        """Notice new addresses of ours, and where peers were found."""
        while True:
            await self._sleep(MAINTENANCE_INTERVAL_S)
            try:
                before = (self._p2pd.last_addresses, self._record_addresses.last)
                recorded = await self._record_addresses.look()
                if (self._p2pd.last_addresses, recorded) != before:
                    self._changed.set()
                self._connections.note_live(await self._p2pd.connected())
            except P2PD_ERRORS as error:
                logger.debug("p2pd did not answer: %s", error)

    async def _look_for_initial_peers(self) -> None:
        """Notice those that have come back. One that swallows packets is waited for, so nothing else is done here."""
        while True:
            await self._sleep(REJOIN_INTERVAL_S)
            try:
                await self._joiner.remember_neighbours()
                if await self._joiner.rejoin():
                    self._changed.set()
            except P2PD_ERRORS as error:
                logger.debug("p2pd did not answer: %s", error)
