"""Keeps one chain open for a driver: looks for stages, opens another chain when one fails, and knows whom to avoid.

Knows nothing of sequences, nor of what is computed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from p2pnet.errors import PeerError, WorkerFailed
from p2pnet.flow.background import Background
from p2pnet.network.interface import Network
from p2pnet.records import StageRecord
from p2pnet.worker.chains.chain import Chain, ChainFault
from p2pnet.worker.chains.choosing import Leg, Offer, choose, in_words, lanes, missing

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks into the directory: stages announce themselves twice as seldom."""

HEAL_S = 60.0
"""How long an answer waits for a whole chain when its own has failed. Then it goes on at another worker, if there is
one."""

RETRY_S = 0.5
"""Between two attempts to open a chain."""

AVOID_S = 30.0
MAX_DOUBLINGS = 5
"""A stage that has failed is avoided for so long where others have its layers, then for twice as long and so on, up to
a quarter of an hour."""

STEP_S = 20.0
TOKEN_S = 0.25
"""What a row may take through the whole chain: so much, and so much for each token. A slow stage takes a few seconds
for one token; one that is gone without a word should be noticed before whoever reads gives up."""

FindStages = Callable[[], Awaitable[Sequence[StageRecord]]]


@dataclass(frozen=True)
class ChainTimes:
    """How patient a driver is, in seconds."""

    heal_s: float = HEAL_S
    retry_s: float = RETRY_S
    avoid_s: float = AVOID_S
    step_s: float = STEP_S
    token_s: float = TOKEN_S

    def of_row(self, tokens: int) -> float:
        return self.step_s + self.token_s * tokens


@dataclass(frozen=True)
class Wanted:
    """What a chain has to be: of all layers of the model with this digest, with room for so many tokens."""

    digest: str
    layers: int
    kv_tokens: int


@dataclass
class _Bad:
    """A stage that has failed."""

    until_s: float = 0.0
    failures: int = 0


class Chains:
    """The chain of one driver. All but the constructor happens in one event loop."""

    def __init__(
        self,
        network: Network,
        find: FindStages,
        wanted: Wanted,
        times: ChainTimes | None = None,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._network = network
        self._find = find
        self._wanted = wanted
        self._times = times or ChainTimes()
        self._now_s = now_s
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._records: dict[str, StageRecord] = {}
        self._bad: dict[str, _Bad] = {}
        self._chain: Chain | None = None
        self._lost_s: float | None = None
        """Since when a chain is wanted and there is none."""
        self._is_closed = False
        self._background = Background(sleep)

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """The spans of layers that nobody has."""
        return missing(self._offers, self._wanted.layers)

    @property
    def is_whole(self) -> bool:
        """Whether there is a chain, as far as is known."""
        return self.usable is not None or choose(self._offers, self._wanted.layers, (), self._rng) is not None

    @property
    def usable(self) -> Chain | None:
        """The chain that is open, unless another should be used."""
        chain = self._chain
        return chain if chain is not None and chain.fault is None and not chain.leaving else None

    def lanes(self, row_s: float) -> int:
        """How many steps are worth having under way now, where a row takes so long at least."""
        return 1 if self._chain is None else lanes(self._chain.legs, self._offers, row_s * 1000)

    @property
    def kv_tokens(self) -> int:
        """What the chain that is in use, or was last, has room for; 0 before the first."""
        return 0 if self._chain is None else self._chain.kv_tokens

    @property
    def _offers(self) -> list[Offer]:
        wanted = self._wanted
        return [
            Offer(record.peer_id, record.first, record.last, record.step_ms, record.kv_free_tokens >= wanted.kv_tokens)
            for record in self._records.values()
            if record.layers == wanted.layers
        ]

    async def start(self) -> None:
        """Look for stages, now and from time to time."""
        await self.look()
        self._background.keep("looking for stages", self._keep_looking)

    async def current(self) -> Chain:
        """The chain to use: the open one, or another. Raises WorkerFailed when there has been none for `heal_s`: who
        asks after that is told at once."""
        chain = self._chain
        if chain is not None and not chain.is_closed:
            if self.usable is not None and not self._is_closed:
                return chain
            for peer_id in chain.leaving or ({chain.fault.peer_id} if chain.fault is not None else set()):
                if not chain.is_dismissed:
                    self._avoid(peer_id)
            await chain.close()
        if self._lost_s is None:
            self._lost_s = self._now_s()
        while not self._is_closed:
            if (opened := await self._open()) is not None:
                self._chain, self._lost_s = opened, None
                return opened
            if self._now_s() >= self._lost_s + self._times.heal_s:
                gaps = self.gaps
                raise WorkerFailed(in_words(gaps) if gaps else "no chain through all layers could be opened")
            await self._sleep(self._times.retry_s)
        raise WorkerFailed("the worker is stopping")

    async def leave(self, chain: Chain, fault: ChainFault) -> None:
        """A chain has failed: its stage is avoided from now on. Does nothing for one that was left before."""
        if chain is not self._chain or chain.is_closed:
            return
        logger.warning("a stage of the chain, %s, has failed: %s", fault.peer_id, fault)
        self._avoid(fault.peer_id)
        await chain.close()

    async def close(self) -> None:
        """End the chain, and all that waits for one. Idempotent."""
        self._is_closed = True
        await self._background.stop()
        if self._chain is not None:
            await self._chain.close()

    async def _open(self) -> Chain | None:
        """Open the best chain there is. Those to be avoided are taken where there are no others. The directory is read
        only where what is known of it does not do: that takes seconds while the peer that has just gone is asked."""
        legs = self._choice()
        if legs is None:
            await self.look()
            legs = self._choice() or choose(self._offers, self._wanted.layers, (), self._rng)
        if legs is None:
            return None
        try:
            chain = await Chain.open(
                self._network,
                self._wanted.digest,
                legs,
                lambda peer_id: self._records[peer_id].addresses,
                self._times.of_row,
                self._wanted.kv_tokens,
            )
        except ChainFault as fault:
            logger.info("the stage %s cannot be used: %s", fault.peer_id, fault)
            self._avoid(fault.peer_id)
            return None
        if self._is_closed:
            await chain.close()
            return None
        where = (f"layers {leg.first} to {leg.last} at {leg.peer_id}" for leg in legs)
        logger.info("a chain is open: %s", ", ".join(where))
        return chain

    def _choice(self) -> tuple[Leg, ...] | None:
        """The best chain of stages that are not to be avoided now."""
        now_s = self._now_s()
        avoided = {peer_id for peer_id, bad in self._bad.items() if bad.until_s > now_s}
        return choose(self._offers, self._wanted.layers, avoided, self._rng)

    def _avoid(self, peer_id: str) -> None:
        bad = self._bad.setdefault(peer_id, _Bad())
        bad.until_s = self._now_s() + self._times.avoid_s * 2 ** min(bad.failures, MAX_DOUBLINGS)
        bad.failures += 1

    async def look(self) -> None:
        """Read anew which stages there are. What cannot be read now is as it was."""
        try:
            self._records = {record.peer_id: record for record in await self._find()}
        except PeerError:
            logger.debug("the directory could not be read", exc_info=True)
        self._bad = {peer_id: bad for peer_id, bad in self._bad.items() if peer_id in self._records}

    async def _keep_looking(self) -> None:
        while True:
            await self._sleep(LOOK_S)
            was_whole = self.is_whole
            await self.look()
            if was_whole and not self.is_whole:
                logger.warning("the model is not offered now: %s", in_words(self.gaps))
