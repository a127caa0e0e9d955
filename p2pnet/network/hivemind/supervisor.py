"""Starts p2pd, ends it, and starts it again when it dies.

Knows nothing of joining: who has it started again finds a peer that knows nobody.
"""

from __future__ import annotations

import asyncio
import logging

from p2pnet.errors import P2PNetError
from p2pnet.network.connections import Connections
from p2pnet.network.dht.node import DhtNode
from p2pnet.network.hivemind.p2pd import P2PD_ERRORS, P2pd

logger = logging.getLogger(__name__)

RESTART_PAUSE_S = (0.1, 0.5, 2.0, 10.0)
"""Before each try to start a p2pd that has died; the last one repeats."""


class Supervisor:
    """The one who looks after p2pd. What it knew of others dies with it."""

    def __init__(self, p2pd: P2pd, dht: DhtNode, connections: Connections) -> None:
        self._p2pd = p2pd
        self._dht = dht
        self._connections = connections

    async def start(self) -> None:
        """Start it, with all that is served. Raises DaemonFailed."""
        await self._p2pd.start()
        try:
            await self._p2pd.serve_again()
        except BaseException:
            await self._p2pd.stop()
            raise

    async def stop(self) -> None:
        await self._p2pd.stop()

    async def revive(self) -> None:
        """Wait until p2pd dies, and start it again, however often that takes."""
        status = await self._p2pd.wait()
        logger.warning("p2pd has died (exit status %s); starting it again", status)
        try:
            await self.stop()
        except Exception:  # of what has died: another one is started all the same
            logger.exception("a p2pd that has died could not be put away")
        self._connections.forget_all()
        self._dht.forget_all()
        await self._restart()

    async def _restart(self) -> None:
        attempt = 0
        while True:
            await asyncio.sleep(RESTART_PAUSE_S[min(attempt, len(RESTART_PAUSE_S) - 1)])
            attempt += 1
            try:
                return await self.start()
            except (P2PNetError, *P2PD_ERRORS) as error:
                logger.error("p2pd does not start: %s", error)
            except Exception:  # the next one may: there is nobody else who would try
                logger.exception("p2pd does not start")
