"""Brings this peer into the network: meets initial peers, compares clocks, and says why when none of them lets it in.

Finds the way back too, when peers are lost. Knows nothing of streams or of keys, nor when it is asked.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from heapq import nsmallest

from p2pnet.config import NetworkConfig
from p2pnet.errors import JoinError, PeerUnreachable
from p2pnet.network.connections import Connections
from p2pnet.network.dht.asking import CALL_ERRORS
from p2pnet.network.dht.node import DhtNode
from p2pnet.network.hivemind.address_book import MAX_KNOWN_ADDRESSES, AddressBook
from p2pnet.network.hivemind.p2pd import P2PD_ERRORS, P2pd, full_addresses, reason
from p2pnet.network.interface import Clock, Meeting
from p2pnet.network.multiaddrs import peer_id_of

logger = logging.getLogger(__name__)

JOIN_RETRIES = 3
JOIN_RETRY_PAUSE_S = 2.0
"""When no initial peer answers at the start, they are asked again: one that is just starting needs some seconds. libp2p
dials an address that failed again after 5 s, and not before."""

MAX_CLOCK_SKEW_S = 3.0
"""hivemind's own limit: beyond it peers disagree on what has expired."""

CLOCKS = 7
"""How many peers are asked at a time what their clocks say: two of them may lie."""

ADDRESSES_KEPT = 4
"""On disk, of each peer: one for TCP and one for QUIC, over IPv4 and IPv6."""

MAX_REMEMBERED = 16
"""Addresses of peers of old that are asked when nobody else is left."""


class Joiner:
    """The way into the network, and the way back."""

    def __init__(
        self, config: NetworkConfig, p2pd: P2pd, dht: DhtNode, connections: Connections, now_ms: Clock
    ) -> None:
        self._config = config
        self._p2pd = p2pd
        self._dht = dht
        self._connections = connections
        self._now_ms = now_ms
        self._book = None if config.address_book is None else AddressBook(config.address_book, config.initial_peers)

    async def join(self) -> None:
        """Join through the initial peers, if there are any. Raises JoinError when none of them lets us in."""
        initial = self._config.initial_peers
        if not initial:
            return
        problems = await self._meet_all(initial)
        if not self._dht.neighbours and self._book is not None and (kept := self._book.read()):
            logger.info("no initial peer answers; asking %d addresses of peers that were known before", len(kept))
            await self._meet_all(kept)
        for _ in range(JOIN_RETRIES):  # whoever is started together with us may need a moment
            if self._dht.neighbours or len(problems) < len(initial):
                break
            await asyncio.sleep(JOIN_RETRY_PAUSE_S)
            problems = await self._meet_all(initial)
        if (error := refusal(initial, problems, self._dht.neighbours > 0)) is not None:
            raise error

    async def rejoin(self) -> bool:
        """Meet initial peers that we lost sight of; when nobody is left, any peer we have known. Returns whether we
        knew nobody before, and now do."""
        self.keep_addresses()
        seen = self._dht.neighbour_ids()
        missing = [address for address in self._config.initial_peers if peer_id_of(address) not in seen]
        if not seen:
            missing += self._connections.newest_addresses(MAX_REMEMBERED)
            missing += self._book.read()[:MAX_REMEMBERED] if self._book is not None else []
        if missing:
            await self._meet_all(list(dict.fromkeys(missing)))
        return not seen and self._dht.neighbours > 0

    def keep_addresses(self) -> None:
        """Write down where other nodes can be dialled."""
        if self._book is not None:
            dialled = (node for node in self._dht.contacts() if node.addresses)
            # As long as they stay, the same are kept.
            nodes = nsmallest(MAX_KNOWN_ADDRESSES, dialled, key=lambda node: node.node_id)
            self._book.write([address for node in nodes for address in node.full_addresses()[:ADDRESSES_KEPT]])

    async def remember_neighbours(self) -> None:
        """Keep the addresses of DHT peers that we are connected to: the way back when p2pd dies and no initial peer is
        left."""
        neighbours = self._dht.neighbour_ids()
        for peer in await self._p2pd.p2p.list_peers():
            peer_id = peer.peer_id.to_base58()
            if peer_id in neighbours and not self._connections.knows(peer_id):
                self._connections.learn(full_addresses(peer.addrs, peer_id))

    async def meet(self, address: str) -> Meeting:
        """Connect to a peer, compare clocks, and enter each other's routing tables where they agree."""
        peer_id = peer_id_of(address)
        assert peer_id is not None, "checked by the command line"
        self._connections.learn([address])
        began_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._config.join_timeout_s):
                await self._connections.connect(peer_id)
                asked_s = self._now_ms() / 1000
                pong = await self._dht.ping(peer_id)
        except (*P2PD_ERRORS, *CALL_ERRORS) as error:
            raise PeerUnreachable(reason(error)) from error
        took_s = asyncio.get_running_loop().time() - began_s
        ahead_s = clock_ahead_s(pong.time_s, asked_s, self._now_ms() / 1000) if pong.time_s else None
        if abs(ahead_s or 0.0) <= MAX_CLOCK_SKEW_S:
            self._dht.met(peer_id, pong.sender)
        return Meeting(took_s, ahead_s)

    async def other_clocks(self) -> list[float]:
        """By how many seconds the clocks of a few other peers are ahead of ours, of those that answer."""
        known = sorted(self._dht.neighbour_ids())
        asking = [self._clock_ahead_s(peer_id) for peer_id in random.sample(known, min(CLOCKS, len(known)))]
        if not asking:
            asking = [self._clock_at(address) for address in self._config.initial_peers[:CLOCKS]]
        found = await asyncio.gather(*asking, return_exceptions=True)
        return [ahead_s for ahead_s in found if isinstance(ahead_s, float)]

    async def _clock_ahead_s(self, peer_id: str) -> float | None:
        asked_s = self._now_ms() / 1000
        pong = await self._dht.ping(peer_id)
        return clock_ahead_s(pong.time_s, asked_s, self._now_ms() / 1000) if pong.time_s else None

    async def _clock_at(self, address: str) -> float | None:
        return (await self.meet(address)).clock_ahead_s

    async def _meet_all(self, addresses: Sequence[str]) -> list[Exception]:
        """Meet these peers, then our own neighbourhood in the DHT. Returns what went wrong, per unreachable peer.

        As soon as anybody is known, one that swallows packets holds up nobody for longer than a question may take: the
        dial goes on, and it is asked again soon."""
        meetings = [asyncio.ensure_future(self._join_through(address)) for address in addresses]
        pending = set(meetings)
        try:
            while pending and not self._dht.neighbours:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                await asyncio.wait(pending, timeout=self._config.rpc_timeout_s)
        finally:
            for meeting in meetings:
                meeting.cancel()
            results = await asyncio.gather(*meetings, return_exceptions=True)
        if self._dht.neighbours:
            await self._dht.look_around()
        late = PeerUnreachable("no answer in time")
        problems = [late if isinstance(result, asyncio.CancelledError) else result for result in results]
        return [problem for problem in problems if isinstance(problem, Exception)]

    async def _join_through(self, address: str) -> None:
        """Meet a peer whose clock agrees with ours."""
        peer_id = peer_id_of(address)
        if peer_id == self._p2pd.peer_id:
            return
        ahead_s = (await self.meet(address)).clock_ahead_s
        if ahead_s is not None and abs(ahead_s) > MAX_CLOCK_SKEW_S:
            raise JoinError(
                f"This machine's clock differs by {abs(ahead_s):.0f} seconds from that of {peer_id}.",
                "Set the clock (for instance: timedatectl set-ntp true), or join through another peer.",
            )


def clock_ahead_s(theirs_s: float, asked_s: float, answered_s: float) -> float:
    """By how much a peer's clock is ahead of ours, negative when it is behind. What its answer's way may have taken is
    no difference: it read its clock at some time between our question and its answer."""
    return max(0.0, theirs_s - answered_s) - max(0.0, asked_s - theirs_s)


def refusal(initial: Sequence[str], problems: Sequence[Exception], knows_others: bool) -> JoinError | None:
    """Why we are not in the network, if so. Some other peer may have asked us something meanwhile, and is known: but
    where none of the peers that we join through shares our clock, nobody would believe what we announce."""
    is_skewed = any(isinstance(problem, JoinError) for problem in problems)
    if len(problems) < len(initial) or (knows_others and not is_skewed):
        return None
    return join_error(initial, problems)


def join_error(initial: Sequence[str], problems: Sequence[Exception]) -> JoinError:
    """Why no initial peer lets us in: a clock that is off, or else what was tried and what came of it."""
    skewed = next((problem for problem in problems if isinstance(problem, JoinError)), None)
    tried = "; ".join(f"{address} ({problem})" for address, problem in zip(initial, problems, strict=True))
    return skewed or JoinError(
        f"No peer could be reached. Tried {tried}.",
        "Check the address and the network, name another peer with --initial-peers, "
        "or start a network of your own with `p2pnet bootstrap`.",
    )
