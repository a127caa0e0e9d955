"""Has answers looked at, and flags workers whose answers do not come from what they claim to run.

Looks come after clients: they begin when an answer is over, on slots that nobody needs, a few at a time. What is
decided is decided elsewhere: whose answers (`verdicts.py`), by whom (`auditors.py`), what it comes to (`judge.py`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from gateway.audits.auditors import Auditors
from gateway.audits.canaries import canary
from gateway.audits.comparing import greedy
from gateway.audits.free_looks import MAX_FREE_TOKENS, FreeLook, Part
from gateway.audits.given import Given, can_be_scored, is_unverifiable
from gateway.audits.judge import Judge
from gateway.audits.looks import Look, is_fault, look
from gateway.audits.modes import AuditConfig, AuditMode
from gateway.audits.trials import ACCUSER_TRIAL_SHARE, SPOILED_SHARE, TRIAL_SHARE, spoiled
from gateway.audits.verdicts import CANARY_PART
from gateway.interface import Caller
from gateway.membership.table import PeerTable
from gateway.peers.worker import Worker
from p2pnet.client import generate
from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import P2PNetError
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta
from p2pnet.network.interface import Network
from p2pnet.records import ModelCard
from p2pnet.score_messages import ScoreRequest

logger = logging.getLogger(__name__)

MAX_UNDER_WAY = 4
"""Answers that are looked at at the same time, canaries among them."""

MAX_KEPT = 32
"""Answers that wait to be looked at; of more, the newest are not. Each has a prompt of at most a quarter of a MiB."""

MAX_KEPT_OF_ONE = 8
"""Of them those of one worker: a busy one that is new leaves room for others. Canaries are kept one at a time."""

KEPT_S = 120.0
"""How long an answer waits for an auditor that has time."""

TICK_S = 0.25
"""How often it is looked who has time."""

CANARY_SPREAD_S = 60.0
"""A canary is sent at a moment drawn from so many seconds: right behind a client's request it would be known by
that."""


Answer = AsyncGenerator[Accepted | TextDelta | Finished, None]
Ask = Callable[[Worker, GenerateRequest], Answer]


@dataclass(frozen=True)
class _Kept:
    """An answer that waits, or the worker whose turn it is to answer a canary. Seconds on one monotonic clock."""

    worker: Worker
    card: ModelCard
    from_s: float
    given: Given | None = None


class Audits:
    """Those of one gateway. Run `run` as a task. `is_full` says whether requests for a model wait."""

    def __init__(
        self,
        network: Network,
        table: PeerTable,
        is_full: Callable[[str], bool] = lambda model: False,
        config: AuditConfig | None = None,
        rng: random.Random | None = None,
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
        timeouts: ExchangeTimeouts | None = None,
        ask: Ask | None = None,
    ) -> None:
        """`ask` has a worker answer as for a client, so that it does not see what is looked at."""
        self.config = config or AuditConfig()
        self._network = network
        self._table = table
        self._rng = rng or random.SystemRandom()  # workers see what is drawn, and must not guess what is next
        self._now_s = now_s
        self._timeouts = timeouts or ExchangeTimeouts()
        self._answer = self._plain_answer if ask is None else ask
        self.auditors = Auditors(table, self.config.trusted, is_full, self._rng, now_s)
        self.judge = Judge(self.auditors, table.flags, unix_s)
        self._waiting: deque[_Kept] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    @property
    def _only_trusted(self) -> bool:
        return self.config.mode is AuditMode.OWN

    def begin(self, request: GenerateRequest, worker: Worker, card: ModelCard, caller: Caller) -> Given | None:
        """A request goes to a worker now. Where its answer will be looked at, it is gathered in what is returned, to be
        handed to `end` when it is over, however it ends."""
        if self.config.mode is AuditMode.OFF or len(self._table.roster.of(card.key)) < 2:
            return None
        if not self._is_drawn(worker, card):
            return None
        if self.config.mode is AuditMode.CANARIES or (is_unverifiable(card) and not self._only_trusted):
            self._keep(_Kept(worker, card, self._now_s() + self._rng.uniform(0, CANARY_SPREAD_S)))
            return None
        if not caller.may_be_audited or not can_be_scored(request, card):
            return None
        return Given(request, worker, card, self._rng.randrange(request.n))

    def end(self, given: Given) -> None:
        """As much as there will be has come. How much it would take to look at it is known only now."""
        case = self.judge.case_of(given.worker, given.card)
        share = case.share_of(given.answer_part)
        if share >= case.share or self._rng.random() < share / case.share:
            self._keep_given(given)

    def _keep_given(self, given: Given) -> None:
        self._keep(_Kept(given.worker, given.card, self._now_s(), given))

    def free_look(self, request: GenerateRequest, attempt_by: Worker, parts: Sequence[Part]) -> FreeLook | None:
        """Whoever goes on with an answer may tell the margins of what others gave of it: to be told them, where that
        says anything."""
        tokens = sum(part.tokens for part in parts)
        if self.config.mode is AuditMode.OFF or not 0 < tokens == len(request.resume_tokens) <= MAX_FREE_TOKENS:
            return None
        if not any(self.auditors.may_audit(attempt_by, part.worker, part.card) for part in parts):
            return None
        return FreeLook(parts, partial(self._note_free, attempt_by))

    async def run(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """For ever."""
        try:
            while True:
                await self._news.wait()
                if not self._waiting:
                    self._news.clear()
                self.look_now()
                await sleep(TICK_S)
        finally:
            under_way = tuple(self._under_way)
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def look_now(self) -> None:
        """Begin with what waits, as far as somebody has time."""
        for _ in range(len(self._waiting)):
            kept = self._waiting.popleft()
            if not self._try_begin(kept) and self._now_s() < kept.from_s + KEPT_S:
                self._waiting.append(kept)

    @property
    def is_idle(self) -> bool:
        """Nothing waits, and nothing is under way."""
        return not self._waiting and not self._under_way

    def _is_drawn(self, worker: Worker, card: ModelCard) -> bool:
        case = self.judge.case_of(worker, card)
        part = CANARY_PART if self.config.mode is AuditMode.CANARIES else 1.0
        share = case.comparing_share if is_unverifiable(card) else case.share_of(part)
        return share >= 1 or self._rng.random() < share

    def _keep(self, kept: _Kept) -> None:
        alike = sum(
            each.worker is kept.worker and (each.given is None) == (kept.given is None) for each in self._waiting
        )
        if len(self._waiting) < MAX_KEPT and alike < (1 if kept.given is None else MAX_KEPT_OF_ONE):
            self._waiting.append(kept)
            self._news.set()
        else:
            self.judge.counts["left_out"] += 1

    def _try_begin(self, kept: _Kept) -> bool:
        """Whether it is done with, or has begun."""
        if kept.worker.peer_id in self.judge.flags or (kept.given is not None and kept.given.is_taken):
            return True
        if len(self._under_way) >= MAX_UNDER_WAY or self._now_s() < kept.from_s:
            return False
        if kept.given is None:
            if not self.auditors.is_free(kept.worker, kept.card.key):
                return False
            if is_unverifiable(kept.card):
                if (twin := self.auditors.twin(kept.worker, kept.card)) is not None:
                    self._start(self._compare(kept.worker, twin, kept.card))
            elif self.auditors.able(kept.worker, kept.card):
                self._start(self._canary(kept))
            return True
        case = self.judge.case_of(kept.worker, kept.card)
        panel = self.auditors.panel(case, kept.worker, kept.card, self._only_trusted)
        if not panel:
            return False
        kept.given.is_taken = True
        if (request := kept.given.to_score(self._rng)) is not None:
            self._start(self._have_looked_at(kept.given, request, panel))
        return True

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:  # the edge: nobody waits for this task
            logger.exception("an answer could not be looked at")

    async def _canary(self, kept: _Kept) -> None:
        """Have a worker answer a prompt of ours, as it answers those of clients, and keep the answer."""
        given, _ = await self._answer_of(kept.worker, kept.card, canary(kept.card, self._rng))
        self._keep_given(given)

    async def _compare(self, worker: Worker, twin: Worker, card: ModelCard) -> None:
        """Have two that nobody can check answer the same prompt of ours."""
        request = greedy(canary(card, self._rng))
        answers = await asyncio.gather(*(self._answer_of(each, card, request) for each in (worker, twin)))
        self.judge.note_compared(worker, card, [text for _, text in answers])

    async def _answer_of(self, worker: Worker, card: ModelCard, request: GenerateRequest) -> tuple[Given, str]:
        """What it gives, as far as it comes, and its text."""
        given = Given(request, worker, card)
        texts: list[str] = []
        worker.reserve(card.key, self._now_s())
        try:
            async with aclosing(self._answer(worker, request)) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        given.note(event)
                        texts.append(event.text)
                    elif isinstance(event, Finished):
                        given.note_end(event)
        except P2PNetError as error:
            logger.debug("%s did not answer a canary: %s", worker.peer_id, error)
        finally:
            worker.release(card.key)
        return given, "".join(texts)

    def _plain_answer(self, worker: Worker, request: GenerateRequest) -> Answer:
        return generate(self._network, worker.peer_id, request, worker.record.addresses, self._timeouts)

    async def _have_looked_at(self, given: Given, request: ScoreRequest, panel: Sequence[Worker]) -> None:
        """By all of these."""
        worker, card = given.worker, given.card
        case = self.judge.case_of(worker, card)
        looks = await asyncio.gather(*(self._ask(each, request, given.prompt_tokens) for each in panel))
        for auditor, said in zip(panel, looks, strict=True):
            if isinstance(said, Look):
                self.judge.note_look(given, auditor, said, request)
                continue
            if is_fault(said):
                await self._find_whether_another_can(given, request, auditor)
            else:
                case.note_no_time(auditor.peer_id)
        for auditor in panel:
            voice = self.auditors.voice_of(auditor)
            share = ACCUSER_TRIAL_SHARE if voice in case.accusers() else TRIAL_SHARE
            if not voice.is_trusted and self._rng.random() < share:
                await self._try_auditor(auditor, card, request)

    async def _find_whether_another_can(self, given: Given, request: ScoreRequest, failed: Worker) -> None:
        other = self.auditors.another(given.worker, given.card, self._only_trusted, {failed.peer_id})
        if other is not None and isinstance(await self._ask(other, request), Look):
            self.judge.note_other_could(failed, given.card, other)

    async def _try_auditor(self, auditor: Worker, card: ModelCard, like: ScoreRequest) -> None:
        """Ask it for a look at an answer that is known, spoiled or as it is; or that is to be known."""
        known = self.judge.known.fit_for(self.auditors.voice_of(auditor), card.key, like)
        if not known:
            return
        record = self.auditors.record_of(auditor.peer_id)
        open_ones = [answer for answer in known if not answer.is_confirmed]
        answer = self._rng.choice([answer for answer in known if record.is_untried(answer)] or open_ones or known)
        request: ScoreRequest = answer.request
        changed: tuple[int, ...] = ()
        if self._rng.random() < SPOILED_SHARE:
            request, changed = spoiled(request, self.judge.known.ids(card.key, like), self._rng)
        said = await self._ask(auditor, request, answer.prompt_tokens)
        if isinstance(said, Look):
            self.judge.note_trial(auditor, card, answer, changed, said)

    async def _ask(
        self, auditor: Worker, request: ScoreRequest, prompt_tokens: int | None = None
    ) -> Look | P2PNetError:
        try:
            return await look(self._network, auditor, request, self._timeouts, prompt_tokens)
        except P2PNetError as error:
            self.judge.counts["failed"] += 1
            logger.debug("%s did not look at an answer: %s (%s)", auditor.peer_id, error, error.code)
            return error

    def _note_free(self, auditor: Worker, part: Part, said: Look) -> None:
        """Of each part that this one may audit, unless somebody else looks at it already, or is to: an end that was
        doubted is not among what is told here."""
        given = part.given
        is_left = given is not None and (given.is_taken or given.has_end)
        if is_left or not self.auditors.may_audit(auditor, part.worker, part.card):
            return
        if given is not None:
            given.is_taken = True
        self.judge.note_free_look(part.worker, part.card, auditor, said)
