"""Asks workers whether they are there: newcomers, those in trouble, those lost, and those not heard of lately.

A bounded sample in each round, so that a network of thousands costs no more than one of a hundred. What announces its
load, or serves requests, is heard of and needs no probe. Newcomers have a bound of their own: however many there are,
they keep nobody else from being missed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.membership.table import PeerTable
from gateway.peers.worker import Worker
from p2pnet.client import status
from p2pnet.errors import WIRE_ERRORS, P2PNetError
from p2pnet.flow.background import kept_up
from p2pnet.network.interface import Network
from p2pnet.network.multiaddrs import are_all_relayed
from p2pnet.wire.exchange import STATUS_PROTOCOL

logger = logging.getLogger(__name__)

ROUND_S = 1.0

MAX_PROBES = 32
"""Workers asked in one round: a second's work for a small machine. One half is for those in trouble and one for silent
ones, and what either leaves is the other's: a network of lost workers must not keep the next from being missed."""

MAX_NEWCOMERS = 32
"""Newcomers asked in a second, but for those that a request waits for."""

ENOUGH_WORKERS = 256
MAX_STRANGERS = 2
"""Where there are more workers than these, so many are asked in a second of each kind, newcomers, silent ones and those
in trouble, that have served nothing yet. They are a choice of a large network's, which changes with each look; few are
used soon, and a request that finds one dead goes on elsewhere."""

UNHEARD_S = 11.0
"""A worker announces its load every 10 s. One that has not, and has said nothing else, is asked whether it is there."""

AGAIN_S = 2.0
"""Workers in trouble, and lost ones, are asked this often: one that is back is used again within a few seconds."""

KEPT_S = 60.0
"""How long it is remembered when somebody was asked: rounds in which a thousand lost workers are asked in turn."""

TIMEOUT_S = 1.5
"""For a probe of a worker that nobody waits for."""

RELAYED_TIMEOUT_S = 3.0
"""For the first probe of one that names relays alone. A hole to it is tried for a second before that. Where that is in
vain, p2pd takes half a second more for the circuit, since it dials the other addresses that it has heard of first."""

URGENT_TIMEOUT_S = 0.7
"""For a worker in mid-answer: somebody waits. Three lost packets on a fast link, or once around the world over a relay.
It is more for a worker whose usual round trip says so."""

ROUND_TRIPS = 5.0
"""In an urgent probe, the worker's usual round trip this many times is waited for at least. It is a peak: who has just
been slow to answer, on a busy machine, is not taken for dead a moment later."""

MAX_URGENT_TIMEOUT_S = 2.0
"""But no longer than this, which is five round trips of 0.4 s, once around the world over a relay: to go on elsewhere
costs less than to wait for who may need more, and one probe that had to dial would have the next ones wait for ten."""


def urgent_timeout_s(worker: Worker) -> float:
    """How long a worker has for its answer while somebody waits for it."""
    round_trips_s = ROUND_TRIPS * (worker.round_trip_s.value or 0.0)
    return min(MAX_URGENT_TIMEOUT_S, max(URGENT_TIMEOUT_S, round_trips_s))


def first_timeout_s(newcomer: Worker) -> float:
    """How long a newcomer has for its first answer."""
    return RELAYED_TIMEOUT_S if are_all_relayed(newcomer.record.addresses) else TIMEOUT_S


class Prober:
    """Probes for one gateway. Run `run` as a task."""

    def __init__(self, network: Network, table: PeerTable, now_s: Callable[[], float] = time.monotonic) -> None:
        self._network = network
        self._table = table
        self._now_s = now_s
        self._asked_s: dict[str, float] = {}
        self._meetings: dict[str, asyncio.Task[bool]] = {}
        self._searches: set[asyncio.Task[None]] = set()
        self._meetings_s: deque[float] = deque(maxlen=MAX_NEWCOMERS)

    async def run(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Probe for ever. No round waits for the one before it, in which somebody may not answer."""
        rounds = {asyncio.create_task(kept_up("asking workers again", self._look_again, sleep))}
        try:
            while True:
                await sleep(ROUND_S)
                self.meet_next()
                probing = asyncio.create_task(self._try_round())
                rounds.add(probing)
                probing.add_done_callback(rounds.discard)
        finally:
            under_way: list[asyncio.Task[Any]] = [*rounds, *self._meetings.values(), *self._searches]
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def meet(self, newcomers: Sequence[Worker], enough: int) -> None:
        """Ask newcomers for whom somebody waits. Returns once `enough` of them are there, or all have been asked."""
        pending = {self._meeting(worker) for worker in newcomers}
        while pending and enough > 0:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            enough -= sum(not meeting.cancelled() and meeting.result() for meeting in done)

    def meet_next(self) -> None:
        """Ask the newcomers whose turn it is."""
        now_s = self._now_s()
        lately = sum(now_s - asked_s < ROUND_S for asked_s in self._meetings_s)
        at_most = MAX_NEWCOMERS if len(self._table.workers) <= ENOUGH_WORKERS else MAX_STRANGERS
        for worker in self._table.newcomers.next(max(0, at_most - lately), skip=self._meetings):
            self._meeting(worker)

    def _meeting(self, newcomer: Worker) -> asyncio.Task[bool]:
        """The one under way, or a new one."""
        peer_id = newcomer.peer_id
        if peer_id not in self._meetings:
            self._meetings_s.append(self._now_s())
            self._meetings[peer_id] = asyncio.create_task(self._try_probe(newcomer))
            self._meetings[peer_id].add_done_callback(lambda _: self._meetings.pop(peer_id, None))
        return self._meetings[peer_id]

    async def _look_again(self) -> None:
        """When our own place in the network has changed, when our p2pd is back for instance, all in trouble are asked
        at once: it may have been ours."""
        while True:
            await self._network.wait_changed()
            self._asked_s.clear()
            await self._try_round()

    async def probe_round(self) -> None:
        """Ask those whose turn it is, all at the same time."""
        due = self.due()
        now_s = self._now_s()
        self._asked_s = {peer_id: asked_s for peer_id, asked_s in self._asked_s.items() if now_s - asked_s < KEPT_S}
        self._asked_s |= dict.fromkeys((worker.peer_id for worker in due), now_s)
        await asyncio.gather(*map(self._probe, due))

    def due(self) -> list[Worker]:
        """The workers to ask now, those that have served us first. Of those in trouble, the ones not asked for longest
        come first; of the silent ones, the ones silent for longest, and last those of which nothing was ever heard."""
        now_s = self._now_s()
        trouble: list[Worker] = []
        silent: list[Worker] = []
        for worker in self._table.workers:
            is_in_trouble = worker.health.is_missed or worker.is_cooling(now_s)
            if (is_in_trouble or now_s - worker.heard_s > UNHEARD_S) and self._may_ask(worker, now_s):
                (trouble if is_in_trouble else silent).append(worker)
        trouble.extend(worker for worker in self._table.lost if self._may_ask(worker, now_s))
        trouble.sort(key=lambda worker: (not worker.is_tried, self._asked_s.get(worker.peer_id, float("-inf"))))
        silent.sort(key=lambda worker: (not worker.is_tried, worker.heard_s if worker.heard_s > -math.inf else now_s))
        trouble, silent = self._of_many(trouble), self._of_many(silent)
        share = max(MAX_PROBES // 2, MAX_PROBES - len(silent))
        return [*trouble[:share], *silent[: MAX_PROBES - len(trouble[:share])]]

    def _of_many(self, workers: Sequence[Worker]) -> list[Worker]:
        """These, those that have served first; in a large network few of the others."""
        if len(self._table.workers) <= ENOUGH_WORKERS:
            return list(workers)
        tried = [worker for worker in workers if worker.is_tried]
        return [*tried, *workers[len(tried) : len(tried) + MAX_STRANGERS]]

    async def is_there(self, worker: Worker) -> bool:
        """Whether it answers a probe. Somebody waits for it, so the answer comes soon, either way."""
        return await self._ask(worker, urgent_timeout_s(worker))

    def lose(self, worker: Worker) -> None:
        """It did not answer who waits for it, whose requests go on elsewhere: it is out, and is dialled anew at once.
        What led to it may have gone, a relay for example, and not itself."""
        self._table.note_lost(worker)
        self._asked_s[worker.peer_id] = self._now_s()
        searching = asyncio.create_task(self._search(worker))
        self._searches.add(searching)
        searching.add_done_callback(self._searches.discard)

    async def _search(self, worker: Worker) -> None:
        await self._network.hang_up(worker.peer_id)
        await self._try_probe(worker)

    async def miss(self, worker: Worker) -> None:
        """Ask one of which nothing is heard any more: it is out, or in again, at once. Nothing is hung up on: it may be
        slow, and have answers of ours under way; the next round knows better."""
        if await self._ask(worker, urgent_timeout_s(worker)):
            self._table.note_found(worker)
        else:
            self._table.note_lost(worker)

    async def _try_round(self) -> None:
        try:
            await self.probe_round()
        except Exception:  # the edge: one bad round must not be the last one
            logger.exception("workers could not be probed")

    def _may_ask(self, worker: Worker, now_s: float) -> bool:
        if STATUS_PROTOCOL not in worker.record.protocols:
            return False
        return now_s - self._asked_s.get(worker.peer_id, float("-inf")) >= AGAIN_S

    async def _try_probe(self, worker: Worker) -> bool:
        try:
            return await self._probe(worker, first_timeout_s(worker))
        except Exception:  # the edge: whatever one newcomer brings about is its own
            logger.exception("%s could not be asked", worker.peer_id)
            self._table.note_lost(worker)
            return False

    async def _probe(self, worker: Worker, timeout_s: float = TIMEOUT_S) -> bool:
        if await self._ask(worker, timeout_s):
            self._table.note_found(worker)
            return True
        self._table.note_lost(worker)
        await self._network.hang_up(worker.peer_id)
        return False

    async def _ask(self, worker: Worker, timeout_s: float) -> bool:
        if STATUS_PROTOCOL not in worker.record.protocols:
            return True  # nothing can be said of it
        asked_s = self._now_s()
        try:
            answer = await status(self._network, worker.peer_id, worker.record.addresses, timeout_s)
        except P2PNetError as error:
            logger.debug("%s does not say how it is: %s (%s)", worker.peer_id, error, error.code)
            if error.code not in WIRE_ERRORS:
                return worker.heard_s > asked_s  # it may have sent tokens meanwhile
            worker.heard_s = self._now_s()  # it refuses to say, so it is there
            return True
        now_s = self._now_s()
        worker.heard_s = now_s
        worker.round_trip_s.note(now_s - asked_s, now_s)
        worker.note_load(answer.load, now_s)
        return True
