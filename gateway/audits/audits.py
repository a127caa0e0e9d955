"""Has answers looked at, and flags workers whose answers do not come from what they claim to run.

Looks come after clients: they begin when an answer is over, on slots that nobody needs, a few at a time. What is
decided is decided elsewhere: whose answers (`verdicts.py`), by whom (`auditors.py`), what it comes to (`evidence.py`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from gateway.audits.audit_view import audit_view
from gateway.audits.auditors import Auditors
from gateway.audits.canaries import canary
from gateway.audits.evidence import Calibration, calibration_of
from gateway.audits.given import Given, can_be_scored
from gateway.audits.looks import Look, is_fault, look
from gateway.audits.modes import AuditConfig, AuditMode
from gateway.audits.trials import ACCUSER_TRIAL_SHARE, TRIAL_SHARE, KnownAnswer, KnownAnswers, spoiled
from gateway.audits.verdicts import Case, Cases
from gateway.interface import Caller
from gateway.membership.table import PeerTable
from gateway.observability.views import AuditView
from gateway.peers.flags import CANNOT_SCORE, UNLIKE, Flag
from gateway.peers.worker import Worker
from p2pnet.client import generate
from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import P2PNetError
from p2pnet.messages import Finished, GenerateRequest, TextDelta
from p2pnet.network.interface import Network
from p2pnet.records import ModelCard, ModelTask
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
    ) -> None:
        self.config = config or AuditConfig()
        self.flags = table.flags
        self.cases = Cases()
        self.counts: Counter[str] = Counter()
        """What looks came to, since the start; see docs/metrics.md."""
        self._network = network
        self._table = table
        self._rng = rng or random.SystemRandom()  # workers see what is drawn, and must not guess what is next
        self._now_s = now_s
        self._unix_s = unix_s
        self._timeouts = timeouts or ExchangeTimeouts()
        self.auditors = Auditors(table, self.config.trusted, is_full, self._rng, now_s)
        self._known = KnownAnswers()
        self._waiting: deque[_Kept] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self.flags.listen(self._forget_lifted)

    @property
    def _only_trusted(self) -> bool:
        return self.config.mode is AuditMode.OWN

    def begin(self, request: GenerateRequest, worker: Worker, card: ModelCard, caller: Caller) -> Given | None:
        """A request goes to a worker now. Where its answer will be looked at, it is gathered in what is returned, to be
        handed to `end` when it is over, however it ends."""
        if self.config.mode is AuditMode.OFF or not card.sampler or not self._is_drawn(worker, card):
            return None
        if self.config.mode is AuditMode.CANARIES:
            self._keep(_Kept(worker, card, self._now_s() + self._rng.uniform(0, CANARY_SPREAD_S)))
            return None
        if not caller.may_be_audited or not can_be_scored(request, card):
            return None
        return Given(request, worker, card, self._rng.randrange(request.n))

    def end(self, given: Given) -> None:
        """As much as there will be has come."""
        self._keep(_Kept(given.worker, given.card, self._now_s(), given))

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
            for task in self._under_way:
                task.cancel()

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

    def view(self, worker: Worker) -> AuditView:
        """What has been shown of it."""
        return audit_view(worker, self.cases, self.flags)

    def _is_drawn(self, worker: Worker, card: ModelCard) -> bool:
        share = self.cases.of(worker.peer_id, card.digest).share
        return share >= 1 or self._rng.random() < share

    def _keep(self, kept: _Kept) -> None:
        alike = sum(
            each.worker is kept.worker and (each.given is None) == (kept.given is None) for each in self._waiting
        )
        if len(self._waiting) < MAX_KEPT and alike < (1 if kept.given is None else MAX_KEPT_OF_ONE):
            self._waiting.append(kept)
            self._news.set()
        else:
            self.counts["left_out"] += 1

    def _try_begin(self, kept: _Kept) -> bool:
        """Whether it is done with, or has begun."""
        if kept.worker.peer_id in self.flags:
            return True
        if len(self._under_way) >= MAX_UNDER_WAY or self._now_s() < kept.from_s:
            return False
        if kept.given is None:
            if not self.auditors.is_free(kept.worker, kept.card.key):
                return False
            if self.auditors.able(kept.worker, kept.card):
                self._start(self._canary(kept))
            return True
        case = self.cases.of(kept.worker.peer_id, kept.card.digest)
        panel = self.auditors.panel(case, kept.worker, kept.card, self._only_trusted)
        if not panel:
            return False
        if (request := kept.given.to_score(self._rng)) is not None:
            self._start(self._judge(kept.given, request, case, panel))
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
        worker, card = kept.worker, kept.card
        request = canary(card, self._rng)
        given = Given(request, worker, card)
        worker.reserve(card.key, self._now_s())
        try:
            answer = generate(self._network, worker.peer_id, request, worker.record.addresses, self._timeouts)
            async with aclosing(answer) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        given.note(event)
                    elif isinstance(event, Finished):
                        given.note_end(event)
        except P2PNetError as error:
            logger.debug("%s did not answer a canary: %s", worker.peer_id, error)
        finally:
            worker.release(card.key)
        self.end(given)

    async def _judge(self, given: Given, request: ScoreRequest, case: Case, panel: Sequence[Worker]) -> None:
        """Have the answer looked at by all of these, and note what they say."""
        looks = await asyncio.gather(*(self._ask(each, request) for each in panel))
        calibration = calibration_of(given.card.quantization, given.card.dtype)
        for auditor, said in zip(panel, looks, strict=True):
            if isinstance(said, Look):
                self._note(given, request, case, auditor, said, calibration)
                continue
            case.note_failed(auditor.peer_id)
            if is_fault(said):
                await self._find_whether_another_can(given, request, auditor)
        if case.worker not in self.flags and (voices := case.convicting()):
            self._flag(case, UNLIKE, [voice.peer_id for voice in voices], any(each.is_trusted for each in voices))
        for auditor in panel:
            voice = self.auditors.voice_of(auditor)
            share = ACCUSER_TRIAL_SHARE if voice in case.accusers() else TRIAL_SHARE
            if not voice.is_trusted and self._rng.random() < share:
                await self._try_auditor(auditor, given.key, request, calibration)

    def _note(
        self, given: Given, request: ScoreRequest, case: Case, auditor: Worker, said: Look, calibration: Calibration
    ) -> None:
        if auditor.peer_id in self.flags or self.auditors.is_barred(auditor.peer_id):
            return  # it has been found out meanwhile
        voice, log_likelihood = self.auditors.voice_of(auditor), said.log_likelihood(calibration)
        case.note(voice, log_likelihood, said.positions)
        self.cases.of(auditor.peer_id, given.card.digest).could_where_it_failed.clear()
        self.counts["doubted" if log_likelihood > 0 else "passed"] += 1
        if log_likelihood <= 0 and not case.is_suspected and not voice.is_trusted:
            self._known.add(given.key, KnownAnswer(request, self.auditors.voice_of(given.worker), [voice]))

    async def _find_whether_another_can(self, given: Given, request: ScoreRequest, failed: Worker) -> None:
        """What another says of the answer is no evidence: whoever failed could have chosen which ones are passed on."""
        other = self.auditors.another(given.worker, given.card, self._only_trusted, {failed.peer_id})
        if other is None or not isinstance(await self._ask(other, request), Look):
            return
        case = self.cases.of(failed.peer_id, given.card.digest)
        case.note_other_could(self.auditors.voice_of(other))
        if case.cannot_score:
            self._flag(case, CANNOT_SCORE, [voice.peer_id for voice in case.could_where_it_failed], is_by_trusted=False)

    async def _ask(self, auditor: Worker, request: ScoreRequest) -> Look | P2PNetError:
        try:
            return await look(self._network, auditor, request, self._timeouts)
        except P2PNetError as error:
            self.counts["failed"] += 1
            logger.debug("%s did not look at an answer: %s (%s)", auditor.peer_id, error, error.code)
            return error

    async def _try_auditor(self, auditor: Worker, key: ModelTask, like: ScoreRequest, calibration: Calibration) -> None:
        """Ask it for a look of which it is known what has to come of it, or for a second opinion for such looks."""
        voice, record = self.auditors.voice_of(auditor), self.auditors.record_of(auditor.peer_id)
        known = self._known.fit_for(voice, key, like)
        if not known:
            return
        answer = self._rng.choice([each for each in known if each.is_confirmed] or known)
        bad = spoiled(answer.request, list(self._known.ids(key, like)), self._rng) if self._rng.random() < 0.5 else None
        said = await self._ask(auditor, answer.request if bad is None else bad[0])
        if not isinstance(said, Look):
            return
        self.counts["trial"] += 1
        log_likelihood = said.log_likelihood(calibration)
        if bad is not None:
            record.note_spoiled(said.margins, bad[1], calibration)
        elif answer.is_confirmed:
            record.note_good(answer.giver.peer_id, log_likelihood, said.positions)
        elif log_likelihood <= 0:
            answer.confirm(voice)
        if record.is_liar:
            logger.warning("%s says what is not so of others' answers: it is not asked any more", auditor.peer_id)
            self._discard(auditor.peer_id)

    def _flag(self, case: Case, reason: str, accusers: Sequence[str], is_by_trusted: bool) -> None:
        evidence = case.evidence
        said = [evidence.voices[peer_id] for peer_id in accusers if peer_id in evidence.voices]
        flag = Flag(
            worker=case.worker,
            reason=reason,
            digest=case.digest,
            tokens=evidence.positions,
            log_e=min(said, default=0.0),
            accusers=tuple(dict.fromkeys(accusers)),
            is_by_trusted=is_by_trusted,
            flagged_unix_s=self._unix_s(),
        )
        logger.warning(
            "%s is flagged (%s) after %d tokens, with evidence of %.1f nats by %d auditors: it gets no more requests",
            *(flag.worker, flag.reason, flag.tokens, flag.log_e, len(flag.accusers)),
        )
        case.could_where_it_failed.clear()
        self.counts["flagged"] += 1
        self.flags.add(flag)
        self._discard(case.worker)

    def _discard(self, liar: str) -> None:
        """What it has said of others counts no more, and flags that rest on it are lifted."""
        self.cases.discard(liar)
        self._known.discard(liar)
        for flag in self.flags.all:
            if liar in flag.accusers:
                case = self.cases.known(flag.worker, flag.digest)
                if case is None or not case.convicting():
                    self.flags.lift(flag.worker)

    def _forget_lifted(self) -> None:
        """A flag that has expired is forgotten with what led to it."""
        for worker in {case.worker for case in self.cases if case.convicting()}:
            if worker not in self.flags:
                self.cases.forget(worker)
