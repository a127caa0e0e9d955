"""Computes what peers have given, as one gateway can know it. Pure: a function of who has signed for what.

What was given here counts as it is. What others have signed for counts by two rules. It goes as far as what they have
given here themselves, as a flow from giver to giver does (BarterCast: Meulpolder et al., IPDPS 2009). And it counts
less for being hearsay, and less again where nearly all of it comes through one of them (MeritRank: Nasrulin, Ishmaev
and Pouwelse, arXiv 2207.09950: transitivity and connectivity decay). Nothing goes further than over one such peer.

So what invented identities can gain is bounded, whatever they sign for one another. A group of peers that has given a
part `x` of all has at most `(1 + (1 - TRANSITIVITY_DECAY)) * x` of merit, besides what peers outside of it have signed
for; and one that has given nothing, here or to these, has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import floor, log

Given = Mapping[str, float]
"""Tokens, by the peer that gave them."""

TRANSITIVITY_DECAY = 0.5
"""What another's word counts less than what was received here."""

CONNECTIVITY_DECAY = 0.5
"""What is taken off the merit of a peer that nearly all of it reaches through one other, as all of one owner's do."""

BRIDGE = 0.9
"""Of its merit, the part through one other peer beyond which that is so."""

LEAST_TOTAL_TOKENS = 100_000.0
"""A gateway that has received less reckons as if it had received this: its first answer makes nobody great."""

SHARE_PER_MERIT = 1000
"""What a peer has given of all, times this, is how many times another's turns it gets, rounded down to a power of
`SHARE_FACTOR`: shares of identities together are no more than their merit together, so nobody gains by being many."""

SHARE_FACTOR = 4
"""Of turns, from one priority of the fair queue to the next: `gateway.queueing.fair_queue.PRIORITY_FACTOR`."""

MAX_STANDING = 2
"""Priorities that merit adds at most, which is 16 turns for one, for who has given a 62nd of all: beside 48 others
that ask all the time even the greatest volunteer has no more than a quarter of the turns."""

LEAST_MERIT = SHARE_FACTOR / SHARE_PER_MERIT
"""What standing begins with: a 250th of all that a gateway has received. It never has to know the standing of more
than some 375 peers."""


def merits(given: Given, said: Mapping[str, Given]) -> dict[str, float]:
    """The merit of each peer that has any: 1 is all that was given here. `given` is what was received here; `said` is
    what peers, or gateways that they vouch for, have signed for in turn, by the peer whose word it is. Nobody's own
    word counts for itself."""
    ways: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for between, of_others in said.items():
        claimed = {peer: tokens for peer, tokens in of_others.items() if tokens > 0 and peer != between}
        believed = min(1.0, given.get(between, 0.0) / sum(claimed.values())) if claimed else 0.0
        for peer, tokens in claimed.items():
            ways[peer][between] = believed * tokens * (1 - TRANSITIVITY_DECAY)
    total = max(LEAST_TOTAL_TOKENS, sum(given.values()))
    found = {peer: _counted(given.get(peer, 0.0), ways.get(peer, {})) / total for peer in {*given, *ways}}
    return {peer: merit for peer, merit in found.items() if merit > 0}


def priority_of(merit: float) -> int:
    """How many priorities sooner its turns come: 0 is none."""
    if merit < LEAST_MERIT:
        return 0
    return min(MAX_STANDING, floor(log(merit * SHARE_PER_MERIT * (1 + 1e-9), SHARE_FACTOR)))


def _counted(direct: float, ways: Given) -> float:
    """`ways` are the tokens that others have signed for, by who."""
    tokens = direct + sum(ways.values())
    is_behind_one = max(ways.values(), default=0.0) > BRIDGE * tokens
    return tokens * (1 - CONNECTIVITY_DECAY) if is_behind_one else tokens
