"""Chooses who looks at whose answers, and keeps how auditors have done in their trials. Asks nobody.

An auditor runs the same weights with the same sampler, and sits in another subnet than the worker: who owns both would
find nothing wrong. A worker has two auditors for a while, by turns, so that the evidence of each gathers; then others.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Collection

from gateway.audits.trials import AuditorRecord
from gateway.audits.verdicts import Case, Voice
from gateway.membership.table import PeerTable
from gateway.peers.health import State
from gateway.peers.worker import Worker
from p2pnet.features import SCORE
from p2pnet.records import ModelCard, ModelTask
from p2pnet.wire.exchange import SCORE_PROTOCOL

PANEL = 2
"""Auditors of one worker at a time: as many as it takes to convict."""

PANEL_STATEMENTS = 64
"""After so many statements others are drawn in the place of those who suspect nothing: a friend of the worker passes
whatever it gives, and must not stay."""

MAX_RECORDS = 4_096
"""Auditors whose trials are remembered."""


class Auditors:
    """Those of one gateway. `is_full` says whether requests for a model wait: then nobody has time to look."""

    def __init__(
        self,
        table: PeerTable,
        trusted: Collection[str],
        is_full: Callable[[str], bool],
        rng: random.Random,
        now_s: Callable[[], float],
    ) -> None:
        self._table = table
        self._trusted = frozenset(trusted)
        self._is_full = is_full
        self._rng = rng
        self._now_s = now_s
        self._records: OrderedDict[str, AuditorRecord] = OrderedDict()

    def voice_of(self, worker: Worker) -> Voice:
        return Voice(worker.peer_id, worker.subnets, worker.peer_id in self._trusted)

    def record_of(self, peer_id: str) -> AuditorRecord:
        record = self._records.pop(peer_id, None) or AuditorRecord()
        self._records[peer_id] = record
        if len(self._records) > MAX_RECORDS:
            self._records.popitem(last=False)
        return record

    def able(self, worker: Worker, card: ModelCard, only_trusted: bool = False) -> list[Worker]:
        """Those that could look at an answer of this worker with this card, busy or not. A trusted one may be anywhere;
        where there is one, nobody else is asked."""
        able = [
            each
            for each in self._table.roster.of(card.key)
            if each is not worker and _runs_the_same(each, card) and not self.is_barred(each.peer_id)
        ]
        trusted = [each for each in able if each.peer_id in self._trusted]
        if trusted or only_trusted:
            return trusted
        return [each for each in able if each.subnets.isdisjoint(worker.subnets)]

    def is_free(self, worker: Worker, key: ModelTask) -> bool:
        """Whether it has time to look at something, or to answer a canary, that no client needs."""
        now_s = self._now_s()
        return (
            not self._is_full(key[0])
            and worker.health_of(key).state(now_s) is State.HEALTHY
            and worker.has_room(key, now_s)
            and worker.pressure() < worker.slots
        )

    def panel(self, case: Case, worker: Worker, card: ModelCard, only_trusted: bool) -> list[Worker]:
        """Who looks at the next answer: one of its two auditors, both of them while it is suspected. Empty while nobody
        has time.

        Who has brought the worker under suspicion stays; others do for a while. Whoever has no time is replaced: a
        friend of the worker must not keep the place of somebody who would look."""
        able = [each for each in self.able(worker, card, only_trusted) if self.is_free(each, card.key)]
        free = {each.peer_id: each for each in able}
        self._rng.shuffle(able)
        is_over = case.panel_statements >= PANEL_STATEMENTS
        if is_over:
            case.panel_statements = 0
        first = [*case.accusers(), *([] if is_over else case.panel)]
        members: list[Worker] = []
        for each in (*(free[voice.peer_id] for voice in first if voice.peer_id in free), *able):
            is_apart = all(each is not other and each.subnets.isdisjoint(other.subnets) for other in members)
            if is_apart and len(members) < PANEL:
                members.append(each)
        case.panel = [self.voice_of(each) for each in members]
        return members if case.is_suspected or not members else [self._rng.choice(members)]

    def another(self, worker: Worker, card: ModelCard, only_trusted: bool, tried: Collection[str]) -> Worker | None:
        """Somebody else with time, where one could not look."""
        free = [
            each
            for each in self.able(worker, card, only_trusted)
            if each.peer_id not in tried and self.is_free(each, card.key)
        ]
        return self._rng.choice(free) if free else None

    def is_barred(self, peer_id: str) -> bool:
        """Whether it has lost its part as an auditor. What is trusted has none to lose."""
        record = self._records.get(peer_id)
        return record is not None and record.is_liar and peer_id not in self._trusted


def _runs_the_same(worker: Worker, card: ModelCard) -> bool:
    """And can look at answers of it."""
    own = worker.card(card.key)
    return (
        own is not None
        and (own.digest, own.sampler) == (card.digest, card.sampler)
        and SCORE in own.features
        and SCORE_PROTOCOL in worker.record.protocols
    )
