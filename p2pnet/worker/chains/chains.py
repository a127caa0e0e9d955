"""Keeps one chain open for a driver: looks for stages, replaces those that fail, has others stand by, and knows whom to
avoid.

Knows nothing of sequences, nor of what is computed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from p2pnet.errors import PeerError, WorkerFailed
from p2pnet.flow.background import Background
from p2pnet.network.interface import Network
from p2pnet.records import StageRecord
from p2pnet.spans import Span, in_words, missing
from p2pnet.worker.chains.chain import Chain
from p2pnet.worker.chains.choosing import Leg, Offer, choose, lanes, standbys
from p2pnet.worker.chains.member import ChainFault
from p2pnet.worker.chains.mending import mend, spare_for

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
    """A stage that has failed. It had been there `since_ms` by its own word."""

    until_s: float = 0.0
    failures: int = 0
    since_ms: int = 0


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
        self._round_trips_ms: dict[str, float] = {}
        self._chain: Chain | None = None
        self._lost_s: float | None = None
        """Since when a chain is wanted and there is none."""
        self._is_closed = False
        self._news = asyncio.Event()
        """There is another chain, or there may be other stages."""
        self._background = Background(sleep)

    @property
    def gaps(self) -> tuple[Span, ...]:
        """The spans of layers that nobody has."""
        return missing(((offer.first, offer.last) for offer in self._offers), self._wanted.layers)

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
        self._background.keep("having stages stand by", self._keep_spares)

    async def current(self) -> Chain:
        """The chain to use: the open one, or another. Raises WorkerFailed when there has been none for `heal_s`: who
        asks after that is told at once."""
        if (usable := self.usable) is not None and not self._is_closed:
            return usable
        if self._lost_s is None:
            self._lost_s = self._now_s()
        while not self._is_closed:
            if (found := await self._found()) is not None:
                self._chain, self._lost_s = found, None
                self._news.set()
                return found
            if self._now_s() >= self._lost_s + self._times.heal_s:
                gaps = self.gaps
                raise WorkerFailed(in_words(gaps) if gaps else "no chain through all layers could be opened")
            await self._sleep(self._times.retry_s)
        raise WorkerFailed("the worker is stopping")

    async def close(self) -> None:
        """End the chain, and all that waits for one. Idempotent."""
        self._is_closed = True
        await self._background.stop()
        if self._chain is not None:
            await self._chain.close()

    async def _found(self) -> Chain | None:
        """The chain that there was, with others in the place of the stages that it has lost; or another. None where
        there is none at this moment."""
        chain = self._chain
        if chain is None or chain.is_closed:
            return await self._open()
        for member in chain.members:
            if not member.is_usable and not member.is_mourned:
                member.is_mourned = True
                self._mourn(member.leg.peer_id, member.is_dismissed, member.fault)
        try:
            if not await mend(chain, partial(self._replacement, chain)):
                return await self._open()
        except ChainFault as fault:
            self._cannot_use(fault)
            return None
        self._round_trips_ms |= chain.round_trips_ms
        logger.info("the chain is whole again: %s", _where(chain.legs))
        return chain

    def _mourn(self, peer_id: str, is_dismissed: bool, fault: ChainFault | None) -> None:
        if is_dismissed:
            return
        logger.warning("a stage of the chain, %s, has failed: %s", peer_id, fault or "it is stopping")
        self._avoid(peer_id)

    async def _replacement(self, chain: Chain, first: int, last: int) -> tuple[Leg, ...] | None:
        return await self._choice(first, last, {member.leg.peer_id for member in chain.members if member.is_usable})

    async def _choice(self, first: int, last: int, in_use: Collection[str] = ()) -> tuple[Leg, ...] | None:
        """The best stages for these layers that are not in use. Those to be avoided are taken where there are no
        others. The directory is read only where what is known of it does not do: that takes seconds while the peer that
        has just gone is asked."""
        legs = self._chosen(first, last, {*self._avoided, *in_use})
        if legs is None:
            await self.look()
            legs = self._chosen(first, last, {*self._avoided, *in_use}) or self._chosen(first, last, in_use)
        return legs

    def _chosen(self, first: int, last: int, avoid: Collection[str]) -> tuple[Leg, ...] | None:
        return choose(self._offers, self._wanted.layers, avoid, self._rng, self._round_trips_ms, (first, last))

    async def _open(self) -> Chain | None:
        """Open the best chain there is. While stages are left of the one before, which lose by that what they have, it
        must be one of stages that are not to be avoided."""
        layers = self._wanted.layers
        if self._chain is not None and any(member.is_usable for member in self._chain.members):
            legs = self._chosen(0, layers, self._avoided)
        else:
            legs = await self._choice(0, layers)
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
            self._cannot_use(fault)
            return None
        self._round_trips_ms |= chain.round_trips_ms
        if self._is_closed:
            await chain.close()
            return None
        if self._chain is not None:
            await self._chain.close()
        logger.info("a chain is open: %s", _where(legs))
        return chain

    @property
    def _avoided(self) -> set[str]:
        now_s = self._now_s()
        return {peer_id for peer_id, bad in self._bad.items() if bad.until_s > now_s}

    def _cannot_use(self, fault: ChainFault) -> None:
        logger.info("the stage %s cannot be used: %s", fault.peer_id, fault)
        self._avoid(fault.peer_id)

    def _avoid(self, peer_id: str) -> None:
        bad = self._bad.setdefault(peer_id, _Bad())
        bad.until_s = self._now_s() + self._times.avoid_s * 2 ** min(bad.failures, MAX_DOUBLINGS)
        bad.failures += 1
        bad.since_ms = self._since_ms(peer_id)

    def _since_ms(self, peer_id: str) -> int:
        return self._records[peer_id].since_ms if peer_id in self._records else 0

    async def look(self) -> None:
        """Read anew which stages there are. What cannot be read now is as it was."""
        try:
            self._records = {record.peer_id: record for record in await self._find()}
        except PeerError:
            logger.debug("the directory could not be read", exc_info=True)
        self._bad = {peer_id: bad for peer_id, bad in self._bad.items() if peer_id in self._records}
        self._round_trips_ms = {peer: ms for peer, ms in self._round_trips_ms.items() if peer in self._records}
        self._news.set()

    async def _keep_looking(self) -> None:
        while True:
            await self._sleep(LOOK_S)
            was_whole = self.is_whole
            await self.look()
            if was_whole and not self.is_whole:
                logger.warning("the model is not offered now: %s", in_words(self.gaps))

    async def _keep_spares(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if (chain := self.usable) is not None:
                await self._add_spares(chain)

    async def _add_spares(self, chain: Chain) -> None:
        """Have a stage stand by for each of the chain's for which there is one to spare."""
        alone = [member.leg for member in chain.members if spare_for(chain, member) is None]
        taken = {member.leg.peer_id for member in (*chain.members, *chain.spares)}
        # Who has failed and was started again may stand by at once: if it fails there, nobody waits.
        bad = {peer_id for peer_id in self._avoided if self._since_ms(peer_id) == self._bad[peer_id].since_ms}
        for leg in standbys(alone, self._offers, taken | bad):
            try:
                members = await chain.join([leg])
            except ChainFault as fault:
                self._cannot_use(fault)
            else:
                chain.stand_by(members)
                logger.info("%s stands by for layers %d to %d", leg.peer_id, leg.first, leg.last)


def _where(legs: Sequence[Leg]) -> str:
    return ", ".join(f"layers {leg.first} to {leg.last} at {leg.peer_id}" for leg in legs)
