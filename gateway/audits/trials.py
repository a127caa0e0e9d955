"""Tries auditors: with answers that this gateway has spoiled, and with answers that two others have found good. Pure.

A look at such an answer is asked for in the same form as any other. What a trial cannot show: that two auditors cover
for one another, where each knows by heart what the other one has given.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

import msgspec

from gateway.audits.evidence import Calibration, Evidence
from gateway.audits.verdicts import Voice
from p2pnet.records import ModelTask
from p2pnet.score_messages import ScoreRequest

TRIAL_SHARE = 0.08
"""Of the looks that an auditor is asked for: one that looks at nothing is found out within some dozens."""

ACCUSER_TRIAL_SHARE = 0.25
"""Of those of one that has brought a worker under suspicion: one of the two does not tell the truth. It is found out in
half of the looks, and trials are a tenth of all looks even then (docs/audits.md)."""

SPOILED_SHARE = 0.5
"""Of all trials: the others are with good answers, or find some."""

SPOILED_IDS = 8
"""Ids that are changed in a spoiled answer: one alone may by chance be nearly as good as the one that it replaces."""

MAX_MISSES = 2
"""Spoiled answers that an auditor may pass before it is none any more: the first may have been chance."""

LOG_LIAR = log(1e3)
"""Evidence, in nats, that an auditor calls answers bad that are good. It loses nothing but its part as an auditor, so
one honest auditor in a thousand may."""

MAX_KNOWN = 4
"""Answers of each model that are kept for trials because two have found them good, and as many that one has."""

MAX_KNOWN_MODELS = 64
MAX_KNOWN_BYTES = 1 << 14
"""Of the longest request that is kept: all of them together take some megabytes."""


@dataclass(eq=False)
class KnownAnswer:
    """An answer that was found good, by whom, and of whom it is."""

    request: ScoreRequest
    giver: Voice
    confirmed_by: list[Voice] = field(default_factory=list)
    prompt_tokens: int | None = None
    """How many its giver said that the prompt has."""

    @property
    def is_confirmed(self) -> bool:
        """By two that share no subnet."""
        return len(self.confirmed_by) >= 2

    def confirm(self, voice: Voice) -> None:
        if not self.is_confirmed and all(voice.subnets.isdisjoint(other.subnets) for other in self.confirmed_by):
            self.confirmed_by.append(voice)

    def names(self, peer_id: str) -> bool:
        """Whether this peer has given or confirmed it."""
        return peer_id == self.giver.peer_id or any(peer_id == voice.peer_id for voice in self.confirmed_by)

    def is_fit_for(self, auditor: Voice) -> bool:
        """Neither its own nor one that it has seen."""
        near = (self.giver, *self.confirmed_by)
        return all(auditor.peer_id != voice.peer_id and auditor.subnets.isdisjoint(voice.subnets) for voice in near)


@dataclass
class _Shelf:
    """The answers of one model, newest last: those that are good, and those of which one auditor has said so."""

    candidates: deque[KnownAnswer] = field(default_factory=lambda: deque(maxlen=MAX_KNOWN))
    confirmed: deque[KnownAnswer] = field(default_factory=lambda: deque(maxlen=MAX_KNOWN))

    @property
    def all(self) -> list[KnownAnswer]:
        return [*self.confirmed, *self.candidates]


class KnownAnswers:
    """Those of one gateway. A model is its name and task, with digest and sampler."""

    def __init__(self) -> None:
        self._shelves: OrderedDict[tuple[ModelTask, str, str], _Shelf] = OrderedDict()

    def add(self, key: ModelTask, answer: KnownAnswer) -> None:
        """One that an auditor has found good. What is large is not kept."""
        if answer.request.token_ids and len(msgspec.msgpack.encode(answer.request.request)) <= MAX_KNOWN_BYTES:
            self._shelves.setdefault(_model(key, answer.request), _Shelf()).candidates.append(answer)
        if len(self._shelves) > MAX_KNOWN_MODELS:
            self._shelves.popitem(last=False)

    def confirm(self, key: ModelTask, answer: KnownAnswer, voice: Voice) -> None:
        """Another auditor has found it good."""
        answer.confirm(voice)
        shelf = self._shelves.get(_model(key, answer.request))
        if answer.is_confirmed and shelf is not None and answer in shelf.candidates:
            shelf.candidates.remove(answer)
            shelf.confirmed.append(answer)

    def discard(self, voice: str) -> None:
        """What this peer has given or confirmed is known no more."""
        for shelf in self._shelves.values():
            for answers in (shelf.candidates, shelf.confirmed):
                for answer in [answer for answer in answers if answer.names(voice)]:
                    answers.remove(answer)

    def fit_for(self, auditor: Voice, key: ModelTask, like: ScoreRequest) -> list[KnownAnswer]:
        """Of the same model as this one."""
        return [answer for answer in self._shelf(key, like).all if answer.is_fit_for(auditor)]

    def ids(self, key: ModelTask, like: ScoreRequest) -> list[int]:
        """Ids that answers of this model are made of."""
        return [token_id for answer in self._shelf(key, like).all for token_id in answer.request.token_ids]

    def _shelf(self, key: ModelTask, like: ScoreRequest) -> _Shelf:
        return self._shelves.get(_model(key, like)) or _Shelf()


@dataclass
class AuditorRecord:
    """How an auditor has done in its trials."""

    misses: int = 0
    against: Evidence = field(default_factory=Evidence)
    """That it calls good answers bad; the voices are those whose answers they are."""

    def note_spoiled(self, margins: Sequence[float], changed: Sequence[int], calibration: Calibration) -> None:
        """What it has said of an answer in which the ids at these positions were changed."""
        said = sum(margins[index] for index in changed)
        if calibration.log_likelihood(said, len(changed)) <= 0:
            self.misses += 1

    def note_good(self, giver: str, log_likelihood: float, positions: int, once: float = 0.0) -> None:
        """What it has said of an answer that two others have found good: see Evidence."""
        self.against.note(giver, log_likelihood, positions, once)

    def is_untried(self, answer: KnownAnswer) -> bool:
        """Whether it would be tried with a good answer of a worker with none of whose it was."""
        return answer.is_confirmed and answer.giver.peer_id not in self.against.voices

    @property
    def is_liar(self) -> bool:
        """It has passed what is bad, or failed the good answers of two: of one, it may be right and others wrong."""
        return self.misses >= MAX_MISSES or len(self.against.accusers(LOG_LIAR)) >= 2


def spoiled(request: ScoreRequest, ids: Sequence[int], rng: random.Random) -> tuple[ScoreRequest, tuple[int, ...]]:
    """The same answer with some ids changed for others of these, and at which positions: none where there are no
    others."""
    token_ids, changed = list(request.token_ids), []
    for index in rng.sample(range(len(token_ids)), min(SPOILED_IDS, len(token_ids))):
        if others := [each for each in ids if each != token_ids[index]]:
            token_ids[index] = rng.choice(others)
            changed.append(index)
    return msgspec.structs.replace(request, token_ids=tuple(token_ids)), tuple(sorted(changed))


def _model(key: ModelTask, request: ScoreRequest) -> tuple[ModelTask, str, str]:
    return key, request.request.digest or "", request.request.sampler or ""
