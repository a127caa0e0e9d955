"""Notices connections that are dead and still pass for alive: those of peers that have come again, and all of our own
once this machine is in another network.

A line that was gone, or a router that has forgotten, leaves such a connection for half a minute, and p2pd opens streams
on the one that has most of them: the dead one, also those that it relays. So whoever has another connection than before
is asked whether he is there. Who does not answer is hung up on, and comes once more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from p2pnet.errors import P2PNetError
from p2pnet.network.crowd import Connection
from p2pnet.network.libp2p.ping import PING_PROTOCOL, ping
from p2pnet.network.multiaddrs import is_relayed
from p2pnet.network.reach.held_relay import Ways

ANSWER_S = 1.5

MAX_ASKED = 32
"""At the same time: identities cost nothing, and neither does to come twice."""


class ReturnedPeers:
    """Those of one peer's connections."""

    def __init__(self, ways: Ways, answer_s: float = ANSWER_S) -> None:
        self._ways = ways
        self._answer_s = answer_s
        self._before: Counter[str] = Counter()
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._doubted: set[str] = set()
        self._are_all_doubted = False

    def doubt_all(self) -> None:
        """This machine has lost an address: who was connected from there has to be asked."""
        self._are_all_doubted = True

    def look(self, connections: Sequence[Connection]) -> None:
        """Ask those that have come again since the last look, and those that are doubted."""
        now = Counter(connection.peer_id for connection in connections if not is_relayed(connection.address))
        self._doubted = set(now) if self._are_all_doubted else self._doubted & set(now)
        self._are_all_doubted = False
        for peer_id, count in now.items():
            has_returned = count > max(1, self._before[peer_id])
            is_doubted = peer_id in self._doubted
            if (has_returned or is_doubted) and peer_id not in self._asked and len(self._asked) < MAX_ASKED:
                self._doubted.discard(peer_id)
                self._asked[peer_id] = asyncio.create_task(self._ask(peer_id))
        self._before = now

    async def stop(self) -> None:
        for task in list(self._asked.values()):
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    async def _ask(self, peer_id: str) -> None:
        try:
            async with asyncio.timeout(self._answer_s):
                stream = await self._ways.open_raw(peer_id, PING_PROTOCOL)
                try:
                    await ping(stream)
                finally:
                    stream.close()
        except (P2PNetError, OSError, TimeoutError):
            await self._ways.hang_up(peer_id)
        finally:
            self._asked.pop(peer_id, None)
