"""Decides which ends of answers are asked of a second worker before they are believed, and what that says of the first.

An answer that ends at once costs a liar nothing and its client the answer. Whoever is asked goes on with what was said:
it ends there too, or the client gets the rest. Asks nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.ends import EndSeen, is_doubtful
from gateway.dispatch.usual import Usual
from p2pnet.messages import Finished

MAX_EXTRA_WORK = 0.05
"""Ends asked about in vain for each request, over time: where empty answers are honest, all requests together cost at
most this much more, and each of these is a prompt that is read once more."""

MAX_SAVED = 5.0
"""Such ends that may be saved up."""

ENDED_EARLY = "ended_early"
"""The reason of a worker's trouble whose answers others go on with."""


class DoubtCredit:
    """How often one gateway may ask in vain. Where the second worker disagrees it was not in vain."""

    def __init__(self) -> None:
        self._credit = MAX_SAVED

    def note_request(self) -> None:
        self._credit = min(MAX_SAVED, self._credit + MAX_EXTRA_WORK)

    def spend(self) -> bool:
        """Whether another end may be asked about; if so it is counted."""
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def give_back(self) -> None:
        self._credit = min(MAX_SAVED, self._credit + 1)


@dataclass(frozen=True)
class Doubted:
    """An end that another worker is asked about, and how many parts of the answer its client had been given."""

    attempt: Attempt
    finished: Finished
    parts_given: int


class Doubt:
    """One request's. It asks once: what two workers say is believed."""

    def __init__(self, usual: Usual, credit: DoubtCredit) -> None:
        self._usual = usual
        self._credit = credit
        self._doubted: Doubted | None = None

    def rises(self, attempt: Attempt, finished: Finished, end: EndSeen | None, parts_given: int) -> bool:
        """Whether this end is asked about. `end` is None where nobody could go on."""
        if end is None or self._doubted is not None:
            return False
        if not is_doubtful(end, self._usual.outranks(attempt.key, attempt.worker.peer_id)):
            return False
        if not attempt.terms.has_elsewhere() or not self._credit.spend():
            return False
        self._doubted = Doubted(attempt, finished, parts_given)
        return True

    def of(self, parts_given: int) -> Doubted | None:
        """The end that is asked about, as long as nobody has gone on with the answer."""
        doubted = self._doubted
        return None if doubted is None or parts_given > doubted.parts_given else doubted

    def note_whole(self, attempt: Attempt, now_s: float) -> Attempt | None:
        """A worker has come to the end of the answer. Where it has gone on with it that speaks against who ended it, if
        it runs the same and has given whole answers; where it has not, the first one was right: it is returned.
        """
        if self._doubted is None or attempt is self._doubted.attempt:
            return None
        first = self._doubted.attempt
        if not attempt.tokens:
            return first
        self._credit.give_back()
        is_same = (attempt.card.digest, attempt.card.sampler) == (first.card.digest, first.card.sampler)
        if is_same and self._usual.knows(attempt.key, attempt.worker.peer_id):
            first.worker.health_of(first.key).note_doubt(now_s, ENDED_EARLY, first.began_s)
        return None
