"""Watches the workers that this gateway uses: each tells over one stream how it is, and is missed when that ends.

A bounded number of streams, for those that serve first. Chooses nothing, and keeps nobody (see `table`); workers that
are not watched are probed (see `probing`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from gateway.membership.probing import Prober
from gateway.membership.table import PeerTable
from gateway.peers.worker import Worker
from p2pnet.client import watch
from p2pnet.errors import WIRE_ERRORS, P2PNetError, PeerSilent, ProtocolViolation
from p2pnet.network.interface import Network
from p2pnet.network.multiaddrs import is_relayed
from p2pnet.rate_limit import RateLimit
from p2pnet.status_messages import Announced, Status
from p2pnet.wire.exchange import WATCH_PROTOCOL

logger = logging.getLogger(__name__)

ROUND_S = 0.5
"""How often it is looked who is to be watched."""

MAX_WATCHED = 128
"""Workers watched at the same time: some two hundred messages a second, 2 % of a core. Those beyond are probed."""

SILENT_S = 2.0
"""A worker says something every second. One that has not for so long is asked; with the answer that does not come, it
is out within three."""

OPEN_S = 5.0
"""For the first event: a dial over a bad line."""

AGAIN_S = 60.0
"""A worker that does not let itself be watched is left alone for so long."""

EVENTS_PER_MINUTE = 300
"""Of one worker; an honest one sends two a second at most, and its records. Each may cost the check of a signature."""


class Watching:
    """The streams of one gateway. Run `run` as a task."""

    def __init__(
        self, network: Network, table: PeerTable, prober: Prober, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._network = network
        self._table = table
        self._prober = prober
        self._now_s = now_s
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._left_alone_s: dict[str, float] = {}
        self._events = RateLimit(EVENTS_PER_MINUTE)

    @property
    def watched(self) -> frozenset[str]:
        """Their peer ids."""
        return frozenset(self._streams)

    async def run(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """For ever."""
        try:
            while True:
                self.look()
                await sleep(ROUND_S)
        finally:
            tasks = list(self._streams.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def look(self) -> None:
        """Watch whoever is used and is not watched yet, as far as there is room; those that have served push out those
        that have not."""
        now_s = self._now_s()
        self._left_alone_s = {peer_id: until_s for peer_id, until_s in self._left_alone_s.items() if until_s > now_s}
        workers = {worker.peer_id: worker for worker in self._table.workers}
        for peer_id in self._streams.keys() - workers.keys():
            self._streams[peer_id].cancel()
        fresh = [worker for worker in workers.values() if self._may_watch(worker)]
        fresh.sort(key=lambda worker: (not worker.is_tried, -worker.heard_s))
        strangers = [peer_id for peer_id in self._streams if peer_id in workers and not workers[peer_id].is_tried]
        for worker in fresh:
            if len(self._streams) >= MAX_WATCHED:
                if not worker.is_tried or not strangers:
                    return
                self._streams[strangers.pop()].cancel()
            self._begin(worker)

    def _may_watch(self, worker: Worker) -> bool:
        peer_id = worker.peer_id
        is_new = peer_id not in self._streams and peer_id not in self._left_alone_s
        return is_new and WATCH_PROTOCOL in worker.record.protocols and self._is_reached_directly(worker)

    def _is_reached_directly(self, worker: Worker) -> bool:
        """As far as one can know. A stream that stays would hold the way through a relay, since holes are punched while
        there is none: so who is behind one is probed."""
        is_direct = self._network.is_direct_to(worker.peer_id)
        return not any(map(is_relayed, worker.record.addresses)) if is_direct is None else is_direct

    def _begin(self, worker: Worker) -> None:
        task = asyncio.create_task(self._try_watch(worker))
        self._streams[worker.peer_id] = task
        task.add_done_callback(lambda _: self._end(worker.peer_id, task))

    def _end(self, peer_id: str, task: asyncio.Task[None]) -> None:
        if self._streams.get(peer_id) is task:
            del self._streams[peer_id]

    async def _try_watch(self, worker: Worker) -> None:
        try:
            await self._watch(worker)
        except Exception:  # the edge: whatever one worker brings about is its own
            logger.exception("%s could not be watched", worker.peer_id)
            self._leave_alone(worker)

    async def _watch(self, worker: Worker) -> None:
        is_heard = False
        try:
            events = watch(self._network, worker.peer_id, worker.record.addresses, OPEN_S, SILENT_S)
            async with aclosing(events):
                async for event in events:
                    is_heard = True
                    self._note(worker, event)
        except P2PNetError as error:
            logger.debug("%s is not watched any more: %s (%s)", worker.peer_id, error, error.code)
            if not is_heard or error.code in WIRE_ERRORS or isinstance(error, ProtocolViolation):
                self._leave_alone(worker)  # it is there and does not want to, or was never there: it is probed
            elif isinstance(error, PeerSilent):
                await self._prober.miss(worker)
            else:
                self._table.note_lost(worker)  # its end of the stream has gone, and so has it; or else it says so now
                await self._prober.miss(worker)

    def _note(self, worker: Worker, event: Status | Announced) -> None:
        now_s = self._now_s()
        if self._events.is_spent(worker.peer_id, now_s):
            raise ProtocolViolation("it says more than it may")
        self._events.spend(worker.peer_id, now_s)
        worker.heard_s = now_s
        if isinstance(event, Status):
            worker.note_load(event.load, now_s)
        else:
            self._table.note_announced(worker, event.record)

    def _leave_alone(self, worker: Worker) -> None:
        self._left_alone_s[worker.peer_id] = self._now_s() + AGAIN_S
