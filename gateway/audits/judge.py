"""Takes down what auditors say, flags who is convicted by it, and discards what liars have said. Asks nobody."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from gateway.audits.audit_view import audit_view
from gateway.audits.auditors import Auditors
from gateway.audits.comparing import are_alike
from gateway.audits.evidence import calibration_of
from gateway.audits.given import Given
from gateway.audits.looks import Look
from gateway.audits.trials import KnownAnswer, KnownAnswers
from gateway.audits.verdicts import Case, Cases
from gateway.observability.views import AuditView
from gateway.peers.flags import CANNOT_SCORE, UNLIKE, Flag, Flags
from gateway.peers.worker import Worker
from p2pnet.records import ModelCard
from p2pnet.score_messages import ScoreRequest

logger = logging.getLogger(__name__)


class Judge:
    """The one of one gateway."""

    def __init__(self, auditors: Auditors, flags: Flags, unix_s: Callable[[], float] = time.time) -> None:
        self.cases = Cases()
        self.known = KnownAnswers()
        self.flags = flags
        self.counts: Counter[str] = Counter()
        """What looks came to, since the start; see docs/metrics.md."""
        self._auditors = auditors
        self._unix_s = unix_s
        flags.listen(self._forget_lifted)

    def case_of(self, worker: Worker, card: ModelCard) -> Case:
        return self.cases.of(worker.peer_id, card.digest)

    def view(self, worker: Worker) -> AuditView:
        """What has been shown of it."""
        return audit_view(worker, self.cases, self.flags)

    def note_look(self, given: Given, auditor: Worker, said: Look, request: ScoreRequest) -> None:
        """An auditor has looked at an answer."""
        worker, card = given.worker, given.card
        doubt = self._note(worker, card, auditor, said)
        if doubt is None:
            return
        self.case_of(auditor, card).could_where_it_failed.clear()
        self.counts["doubted" if doubt > 0 else "passed"] += 1
        voice = self._auditors.voice_of(auditor)
        if doubt <= 0 and not voice.is_trusted:  # also of one that is suspected: its accuser is to be tried
            answer = KnownAnswer(request, self._auditors.voice_of(worker), [voice], given.prompt_tokens)
            self.known.add(card.key, answer)

    def note_free_look(self, worker: Worker, card: ModelCard, auditor: Worker, said: Look) -> None:
        """Whoever goes on with an answer has told the margins of what this worker gave of it."""
        if self._note(worker, card, auditor, said) is not None:
            self.counts["free"] += 1

    def note_compared(self, worker: Worker, card: ModelCard, texts: Sequence[str]) -> None:
        """This worker, which nobody can check, and another one have answered the same prompt greedily. Where either has
        said nothing that says nothing."""
        if not all(texts):
            return
        case = self.case_of(worker, card)
        case.compared += 1
        case.alike += are_alike(*texts)
        self.counts["compared"] += 1

    def note_other_could(self, failed: Worker, card: ModelCard, other: Worker) -> None:
        """An auditor was not able to look at an answer at which this other one was. What that one says of the answer is
        no evidence: whoever failed could have chosen which ones are passed on."""
        case = self.case_of(failed, card)
        case.note_other_could(self._auditors.voice_of(other))
        if case.cannot_score:
            self._flag(case, CANNOT_SCORE, [voice.peer_id for voice in case.could_where_it_failed])
            case.could_where_it_failed.clear()

    def note_trial(
        self, auditor: Worker, card: ModelCard, answer: KnownAnswer, changed: Sequence[int], said: Look
    ) -> None:
        """An auditor has looked at an answer of which it is known what has to come of it, with the ids at these
        positions changed; or at one that is to be known."""
        self.counts["trial"] += 1
        record, calibration = self._auditors.record_of(auditor.peer_id), calibration_of(card.quantization, card.dtype)
        if changed:
            record.note_spoiled(said.margins, changed, calibration)
        elif answer.is_confirmed:
            log_likelihood, once = said.log_likelihood(calibration), said.log_likelihood_once(calibration)
            record.note_good(answer.giver.peer_id, log_likelihood, said.positions, once)
        elif said.doubt(calibration) <= 0:
            self.known.confirm(card.key, answer, self._auditors.voice_of(auditor))
        if record.is_liar:
            logger.warning("%s says what is not so of others' answers: it is not asked any more", auditor.peer_id)
            self._discard(auditor.peer_id)

    def _note(self, worker: Worker, card: ModelCard, auditor: Worker, said: Look) -> float | None:
        """The doubt in what it says; None where that does not count, since either was found out meanwhile."""
        if worker.peer_id in self.flags or auditor.peer_id in self.flags or self._auditors.is_barred(auditor.peer_id):
            return None
        case = self.case_of(worker, card)
        calibration = calibration_of(card.quantization, card.dtype)
        log_likelihood, once = said.log_likelihood(calibration), said.log_likelihood_once(calibration)
        case.note(self._auditors.voice_of(auditor), log_likelihood, said.positions, once)
        if voices := case.convicting():
            self._flag(case, UNLIKE, [voice.peer_id for voice in voices], any(voice.is_trusted for voice in voices))
        return said.doubt(calibration)

    def _flag(self, case: Case, reason: str, accusers: Sequence[str], is_by_trusted: bool = False) -> None:
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
        self.counts["flagged"] += 1
        self.flags.add(flag)
        self._discard(case.worker)

    def _discard(self, liar: str) -> None:
        """What it has said of others counts no more, and flags that rest on it are lifted."""
        self.cases.discard(liar)
        self.known.discard(liar)
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
