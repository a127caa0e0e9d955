"""Keeps what this gateway has received from each worker, and what others have signed for, in memory and bounded.

Everything decays, so who gave much once, and stopped, makes room. A caller is known by a label alone. Pure but for the
clock, which is passed in.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import nsmallest

from gateway.standing.merit import LEAST_MERIT, LEAST_TOTAL_TOKENS, merits

HALF_LIFE_S = 8 * 7 * 86_400.0
"""After so long what was given counts half."""

MAX_GIVERS = 2000
"""Workers remembered, some 1 MB: five times as many as can have standing. Those that gave least make room."""

MAX_SAID = 4000
"""Sums that others have signed for, some 1 MB: ten for each that can have standing. Those that count
least make room."""

MAX_PAIRS = 20_000
"""Callers with their workers, some 5 MB: a hundred callers of two hundred workers. The oldest make room."""

PART_OF_ONE_CALLER = LEAST_MERIT / 4
"""Of all that was received, what one caller's answers add to one worker's sum at most. A caller and a worker may be of
one owner, who asks for nothing but its own answers, which cost nobody anything: so standing takes four callers."""

MERITS_AGE_S = 10.0
"""How old a merit may be: with as many givers and words as there may be, all of them take some 10 ms."""

NEWS_INTERVAL_S = 1.0
"""Who shows something is told at once what it makes; but no more often than this are all merits reckoned for it."""


@dataclass(frozen=True)
class Sum:
    """Tokens as they were at a moment, in Unix seconds. They decay from then on."""

    tokens: float = 0.0
    at_s: float = 0.0

    def at(self, now_s: float) -> float:
        """What they count now. A clock that went back makes them no more."""
        return self.tokens * math.pow(0.5, max(0.0, now_s - self.at_s) / HALF_LIFE_S)

    def plus(self, tokens: float, now_s: float) -> Sum:
        return Sum(self.at(now_s) + tokens, now_s)


@dataclass(frozen=True)
class Word:
    """Whose word a sum is: a gateway's, for which a peer has vouched, of a worker."""

    peer: str
    gateway: str
    worker: str


@dataclass(frozen=True)
class Contents:
    """What is kept over restarts. Of each worker, `received` is all that came from it, `given` what of it counts here,
    and `pairs` what of that each caller had, by its label, oldest first. `claimed_ms` is when the newest key of a peer
    was made that was shown here."""

    received: dict[str, Sum] = field(default_factory=dict)
    given: dict[str, Sum] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Sum] = field(default_factory=dict)
    said: dict[Word, Sum] = field(default_factory=dict)
    claimed_ms: dict[str, int] = field(default_factory=dict)


class Book:
    """One gateway's. `version` grows with each change of what is kept."""

    def __init__(
        self,
        contents: Contents | None = None,
        unix_s: Callable[[], float] = time.time,
        label: Callable[[str], str] = lambda caller: caller,
    ) -> None:
        """`label` makes of a caller's name what it is known by, the same in every run."""
        contents = contents or Contents()
        self._label = label
        self._unix_s = unix_s
        self._received = dict(contents.received)
        self._given = dict(contents.given)
        self._said = dict(contents.said)
        self._claimed_ms = dict(contents.claimed_ms)
        self._pairs = OrderedDict(contents.pairs)
        now_s = unix_s()
        self._total = Sum(sum(each.at(now_s) for each in self._given.values()), now_s)
        self._merits: tuple[float, dict[str, float]] | None = None
        self._news_s = -math.inf
        self.version = 0

    def contents(self) -> Contents:
        """As it is now, for another thread."""
        return Contents(
            dict(self._received), dict(self._given), dict(self._pairs), dict(self._said), dict(self._claimed_ms)
        )

    def note(self, worker: str, caller: str, tokens: int) -> None:
        """This caller was given so many tokens by a worker whose receipt was right."""
        if tokens <= 0:
            return
        now_s = self._unix_s()
        counted = self._counted(worker, caller, tokens, now_s)
        self._received[worker] = self._received.get(worker, Sum()).plus(tokens, now_s)
        self._given[worker] = self._given.get(worker, Sum()).plus(counted, now_s)
        self._total = self._total.plus(counted, now_s)
        if len(self._given) > MAX_GIVERS:
            self._forget_givers(now_s)
        self.version += 1

    def forget(self, worker: str) -> None:
        """Its answers were not those of what it claims to run: nothing that it gave counts any more, here or for its
        word. Idempotent."""
        given = self._given.pop(worker, None)
        if given is None:
            return
        now_s = self._unix_s()
        self._total = self._total.plus(-given.at(now_s), now_s)
        self._received.pop(worker, None)
        self._merits = None
        self.version += 1

    def received(self, worker: str) -> int:
        """Tokens that this worker has given here, as they count now."""
        return round(self._received.get(worker, Sum()).at(self._unix_s()))

    def hear(self, word: Word, total: Sum) -> bool:
        """Somebody has signed for this. Returns whether it says anything here that was not known."""
        now_s = self._unix_s()
        known = self._said.get(word)
        is_news = known is None or known.at_s < total.at_s
        if not is_news or word.peer not in self._given or total.tokens <= 0 or word.peer == word.worker:
            return False
        self._said[word] = total
        if len(self._said) > MAX_SAID:
            self._forget_words(now_s)
        if not 0 <= now_s - self._news_s < NEWS_INTERVAL_S:
            self._merits, self._news_s = None, now_s
        self.version += 1
        return word in self._said

    def merit(self, peer: str) -> float:
        """See `merit.merits`."""
        now_s = self._unix_s()
        if self._merits is None or not 0 <= now_s - self._merits[0] <= MERITS_AGE_S:
            self._merits = now_s, self._reckoned(now_s)
        return self._merits[1].get(peer, 0.0)

    def is_newest(self, peer: str, issued_ms: int) -> bool:
        """Whether no newer key of this peer was shown here. Keys of peers without merit are not remembered: they buy
        nothing."""
        newest_ms = self._claimed_ms.get(peer, 0)
        if issued_ms > newest_ms and self.merit(peer) > 0:
            self._claimed_ms[peer] = issued_ms
            self.version += 1
        return issued_ms >= newest_ms

    def _counted(self, worker: str, caller: str, tokens: int, now_s: float) -> float:
        """What of these tokens counts: no more than one caller's part."""
        key = self._label(caller), worker
        pair = self._pairs.pop(key, Sum())
        room = PART_OF_ONE_CALLER * max(LEAST_TOTAL_TOKENS, self._total.at(now_s)) - pair.at(now_s)
        counted = max(0.0, min(float(tokens), room))
        self._pairs[key] = pair.plus(counted, now_s)
        if len(self._pairs) > MAX_PAIRS:
            self._pairs.popitem(last=False)
        return counted

    def _reckoned(self, now_s: float) -> dict[str, float]:
        said: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        for word, total in self._said.items():
            said[word.peer][word.worker] += total.at(now_s)
        found = merits({peer: given.at(now_s) for peer, given in self._given.items()}, said)
        for peer in self._claimed_ms.keys() - found.keys():
            del self._claimed_ms[peer]
        return found

    def _forget_givers(self, now_s: float) -> None:
        for peer in nsmallest(MAX_GIVERS // 10, self._given, key=lambda peer: self._given[peer].at(now_s)):
            self._total = self._total.plus(-self._given.pop(peer).at(now_s), now_s)
            self._received.pop(peer, None)

    def _forget_words(self, now_s: float) -> None:
        """No word counts for more than whose it is has given here: so to claim much keeps nothing."""
        no_sum = Sum()

        def counts(word: Word) -> float:
            return min(self._said[word].at(now_s), self._given.get(word.peer, no_sum).at(now_s))

        for word in nsmallest(MAX_SAID // 10, self._said, key=counts):
            del self._said[word]
