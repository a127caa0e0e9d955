"""Says of whom there is enough evidence, and how many of whose answers are looked at. Pure: knows peers by their ids
and subnets.

One auditor's word convicts nobody, since it may lie: it takes two that share no subnet, or one that this gateway's
owner trusts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gateway.audits.evidence import LOG_FLAGGED, LOG_SUSPECTED, MAX_VOICES, Evidence

FULL_POSITIONS = 2_000
"""Until so many tokens were looked at, all answers of an identity are: it costs nothing to begin with a new one. Five
times what it is to take to tell four-bit weights from sixteen."""

LEAST_SHARE = 0.009
"""Of the answers of who is known for long, times the part of what a look reads that is the answer's own: so looks
compute nine positions for each thousand that answers have, and ten with the trials of auditors, however long prompts
are. The prompts that were served do not count, since in a chat they have often been computed before."""

CANARY_PART = 0.5
"""For canaries that part: what is looked at has been answered for nothing before."""

MAX_CASES = 4_096
"""Workers, with one digest each, of which evidence is kept; some 4 kB each. Of those the longest not looked at makes
room: one that comes again begins anew, with all of its answers looked at."""

CANNOT_SCORE_TIMES = 5
"""So many times in a row a worker was not able to look at an answer that another of its digest could: a machine that
restarts, or a request that brings the engine down, is not that."""


@dataclass(frozen=True)
class Voice:
    """An auditor, as far as it matters to a verdict."""

    peer_id: str
    subnets: frozenset[str]
    is_trusted: bool = False


@dataclass
class Case:
    """What was found out of one worker and one digest."""

    worker: str
    digest: str
    evidence: Evidence = field(default_factory=Evidence)
    could_where_it_failed: list[Voice] = field(default_factory=list)
    """Who was able to look at the answers at which it was not, since it last was."""
    panel: list[Voice] = field(default_factory=list)
    """Who looks at its answers for now: two at most, that share no subnet."""
    panel_statements: int = 0
    """How many statements there have been since they were drawn."""
    compared: int = 0
    """How often its greedy answer was compared with another's, where nobody can look at its answers."""
    alike: int = 0
    """How often the two began alike."""
    _voices: dict[str, Voice] = field(default_factory=dict)

    @property
    def cannot_score(self) -> bool:
        """Whether it is none of its digest by its failing as an auditor. One other's word is not enough here either:
        who has made up an answer that nobody can look at could say that he can."""
        others = self.could_where_it_failed
        return len(others) >= CANNOT_SCORE_TIMES and bool(convicting(others))

    @property
    def is_suspected(self) -> bool:
        return self.evidence.log_e >= LOG_SUSPECTED

    @property
    def share(self) -> float:
        """Which share of its answers is looked at, from 0 to 1, where a look reads nothing but the answer."""
        return self.share_of(1.0)

    def share_of(self, part: float) -> float:
        """The same where the answer is this part of what a look reads."""
        if self.is_suspected:
            return 1.0
        return max(LEAST_SHARE * part, min(1.0, FULL_POSITIONS / max(1, self.evidence.positions)))

    @property
    def comparing_share(self) -> float:
        """For which share of its answers it is compared with another, where nobody can look at them."""
        return max(LEAST_SHARE, 1 / (1 + self.compared))

    def note(self, voice: Voice, log_likelihood: float, positions: int, once: float = 0.0) -> None:
        """An auditor has looked at one of its answers: see Evidence."""
        self.evidence.note(voice.peer_id, log_likelihood, positions, once)
        self._voices[voice.peer_id] = voice
        self._voices = {peer_id: self._voices[peer_id] for peer_id in self.evidence.voices}
        self.panel_statements += 1

    def note_no_time(self, voice: str) -> None:
        """It did not look, so somebody else is to: one that never has time would keep others from it. Who fails stays,
        until it has failed too often."""
        self.panel = [each for each in self.panel if each.peer_id != voice]

    def note_other_could(self, other: Voice) -> None:
        """It was not able to look at an answer at which this one was."""
        self.could_where_it_failed = [*self.could_where_it_failed, other][-MAX_VOICES:]

    def discard(self, voice: str) -> None:
        """What this auditor has said counts no more."""
        self.evidence.discard(voice)
        self.note_no_time(voice)

    def accusers(self, log_threshold: float = LOG_SUSPECTED) -> list[Voice]:
        """The auditors with so much evidence, most first."""
        return [self._voices[peer_id] for peer_id in self.evidence.accusers(log_threshold)]

    def convicting(self) -> tuple[Voice, ...]:
        """The auditors on whose word it is flagged; empty while there is not enough evidence."""
        return convicting(self.accusers(LOG_FLAGGED))


class Cases:
    """All cases of one gateway."""

    def __init__(self, max_cases: int = MAX_CASES) -> None:
        self._max_cases = max_cases
        self._cases: OrderedDict[tuple[str, str], Case] = OrderedDict()

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases.values())

    def of(self, worker: str, digest: str) -> Case:
        """Its case, opened where there is none."""
        key = (worker, digest)
        case = self._cases.pop(key, None) or Case(worker, digest)
        self._cases[key] = case
        if len(self._cases) > self._max_cases:
            self._cases.popitem(last=False)
        return case

    def known(self, worker: str, digest: str) -> Case | None:
        """Without opening one."""
        return self._cases.get((worker, digest))

    def discard(self, voice: str) -> None:
        """What this auditor has said counts no more, in any case."""
        for case in self:
            case.discard(voice)

    def forget(self, worker: str) -> None:
        """Whatever was said of it is over, as when its flag expires: it begins anew."""
        for key in [key for key in self._cases if key[0] == worker]:
            del self._cases[key]


def convicting(accusers: Sequence[Voice]) -> tuple[Voice, ...]:
    """Those of the accusers, most certain first, who are enough to convict; empty while they are not."""
    for voice in accusers:
        if voice.is_trusted:
            return (voice,)
    for index, first in enumerate(accusers):
        for second in accusers[index + 1 :]:
            if first.subnets.isdisjoint(second.subnets):
                return (first, second)
    return ()
