"""Holds the race of one step among the tokens that top_k, top_p and min_p leave: who wins it, and by how much.

A margin says how much other the scores would have to be for a token to win: as no score can be wrong by more than
rounding makes it, an honest worker's tokens have margins of at most twice that, whatever the vocabulary and the noise
(Token-DiFR, arXiv 2511.20621). It is never a jump: a token that is just beyond the edge of a nucleus has the small
margin of its way in, and one that is just within it beats another by no more than its way out. Knows nothing of
sequences and their requests.
"""

from __future__ import annotations

import math

from p2pnet.score_messages import MAX_MARGIN
from p2pnet.worker.engine.nucleus import Nucleus
from p2pnet.worker.engine.race import Race
from p2pnet.worker.engine.scores import next_larger


class Contest:
    """The tokens of one step that `nucleus` leaves, in their race."""

    def __init__(self, race: Race, nucleus: Nucleus) -> None:
        self._race = race
        self._nucleus = nucleus

    def winner(self) -> int:
        """The token that is sampled.

        Whether top_p leaves a token is asked of the winner alone. If it does not, then nor anything that is less
        likely, and the race is held again without these. So what rounding does to the edge of a nucleus matters as
        often as the token at the edge would win.
        """
        winner = self._race.winner(self._nucleus.least)
        while not self._nucleus.holds(score := self._race.score(winner)):
            winner = self._race.winner(least=next_larger(score))
        return winner

    def margin(self, token_id: int) -> float:
        """By how much another token beats this one, or how far it is from being left: 0 for the winner, and never more
        than MAX_MARGIN."""
        score = self._race.score(token_id)
        if score == -math.inf:
            return MAX_MARGIN
        margin = 0.0 if self._leaves(score) else -self._nucleus.depth(score, MAX_MARGIN)
        own = self._race.value(token_id)
        ids, values = self._race.above(own)
        while len(ids):
            best = int(values.argmax())
            gap, score = self._race.temperature * float(values[best] - own), self._race.score(int(ids[best]))
            if gap <= margin:
                break
            if self._leaves(score):
                margin = max(margin, min(gap, self._nucleus.depth(score, MAX_MARGIN)))
            likelier = self._race.scores[ids] > score  # the others are neither further ahead nor deeper within
            ids, values = ids[likelier], values[likelier]
        return min(MAX_MARGIN, margin)

    def lead(self) -> float:
        """A bound below the margins of all that do not win: the smallest of those that come near the winner, or how far
        the winner itself is from not being left."""
        winner = self.winner()
        ids, _ = self._race.above(self._race.value(winner) - MAX_MARGIN / self._race.temperature)
        others = (self.margin(int(other)) for other in ids if other != winner)
        return min([self._nucleus.depth(self._race.score(winner), MAX_MARGIN), *others])

    def _leaves(self, score: float) -> bool:
        return score >= self._nucleus.least and self._nucleus.holds(score)
