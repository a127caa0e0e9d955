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

MAX_LOOKED_AT = 64
"""Workers among which auditors are drawn: one draw takes a tenth of a millisecond, however many there are."""

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

    def may_audit(self, auditor: Worker, worker: Worker, card: ModelCard) -> bool:
        """Whether it can look at an answer of this worker with this card, and what it says counts. A trusted one may be
        anywhere."""
        return (
            auditor is not worker
            and _runs_the_same(auditor, card)
            and auditor.peer_id not in self._table.flags
            and not self.is_barred(auditor.peer_id)
            and (auditor.peer_id in self._trusted or auditor.subnets.isdisjoint(worker.subnets))
        )

    def able(
        self, worker: Worker, card: ModelCard, only_trusted: bool = False, named: Collection[str] = ()
    ) -> list[Worker]:
        """Some of those that may audit this worker and have time, in the order in which they are drawn: one of each
        subnet, since identities cost nothing, and only such as have served, as far as there are any. Those `named`, if
        they may, are among them. Where there is a trusted one, nobody else is asked."""
        peers = self._table.roster.of(card.key)
        if len(peers) > MAX_LOOKED_AT:
            known = (self._table.get(peer_id) for peer_id in (*self._trusted, *named))
            peers = [*(each for each in known if each is not None), *self._rng.sample(peers, MAX_LOOKED_AT)]
        able = [each for each in peers if self.may_audit(each, worker, card) and self.is_free(each, card.key)]
        trusted = [each for each in able if each.peer_id in self._trusted]
        if trusted or only_trusted:
            return trusted
        by_subnets: dict[frozenset[str], list[Worker]] = {}
        for each in [each for each in able if each.is_tried] or able:
            by_subnets.setdefault(each.subnets, []).append(each)
        drawn = [self._rng.choice(near) for near in by_subnets.values()]
        self._rng.shuffle(drawn)
        return [*(each for each in able if each.peer_id in named), *drawn]

    def twin(self, worker: Worker, card: ModelCard) -> Worker | None:
        """One with time, in another subnet, that says it runs the same files as a worker whom nobody can check."""
        peers = self._table.roster.of(card.key)
        if len(peers) > MAX_LOOKED_AT:
            peers = self._rng.sample(peers, MAX_LOOKED_AT)
        twins = [
            each
            for each in peers
            if each is not worker
            and (own := each.card(card.key)) is not None
            and (own.digest, own.sampler) == (card.digest, card.sampler)
            and each.subnets.isdisjoint(worker.subnets)
            and self.is_free(each, card.key)
        ]
        return self._rng.choice(twins) if twins else None

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
        is_over = case.panel_statements >= PANEL_STATEMENTS
        if is_over:
            case.panel_statements = 0
        first = [voice.peer_id for voice in (*case.accusers(), *([] if is_over else case.panel))]
        able = self.able(worker, card, only_trusted, first)
        able.sort(key=lambda each: first.index(each.peer_id) if each.peer_id in first else len(first))
        members: list[Worker] = []
        for each in able:
            is_apart = all(each is not other and each.subnets.isdisjoint(other.subnets) for other in members)
            if is_apart and len(members) < PANEL:
                members.append(each)
        case.panel = [self.voice_of(each) for each in members]
        return members if case.is_suspected or not members else [self._rng.choice(members)]

    def another(self, worker: Worker, card: ModelCard, only_trusted: bool, tried: Collection[str]) -> Worker | None:
        """Somebody else with time, where one could not look."""
        able = [each for each in self.able(worker, card, only_trusted) if each.peer_id not in tried]
        return able[0] if able else None

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
