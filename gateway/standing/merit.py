"""Computes what peers have given, as one gateway can know it. Pure: a function of who has signed for what.

MeritRank (Nasrulin, Ishmaev and Pouwelse, arXiv 2207.09950): a walk begins at the gateway and goes, at each step, from
whoever has received to one that has given, in proportion to what was given. What a peer's merit is, is how often it is
come by. Walks of two steps are few enough to be summed up, so nothing here is by chance.

What invented identities can gain is bounded, whatever they sign for one another. A walk gets to them only over what was
really given, and then goes on once: a group of peers to whom a part `x` of all walks leads has at most
`(1 + (1 - TRANSITIVITY_DECAY)) * x` of merit, and identities that have given nothing to anybody who counts have none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

Received = Mapping[str, Mapping[str, float]]
"""What each peer has signed that it has received, in tokens, by who gave it."""

TRANSITIVITY_DECAY = 0.5
"""The part of walks that ends at each step: what a stranger's word counts less than what was received here."""

CONNECTIVITY_DECAY = 0.5
"""What is taken off the merit of a peer that nearly all walks reach through one other, as all of one owner's do."""

BRIDGE = 0.9
"""Of its walks, the part through one other peer beyond which that is so."""

HALF_LIFE_WEEKS = 8.0
"""After so long what was given counts half: who gave much once, and stopped, makes room."""


def aged(tokens: float, weeks: float) -> float:
    """What tokens that were given so many weeks ago count now."""
    return tokens * math.pow(0.5, max(0.0, weeks) / HALF_LIFE_WEEKS)


def merits(received: Received, gateway: str) -> dict[str, float]:
    """The merit of each peer that a walk gets to: 1 is all that the gateway has received. Tokens that are not over 0
    are none, and nobody gives to itself."""
    direct = _parts(received, gateway)
    ways: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for between, part in direct.items():
        for giver, of_it in _parts(received, between).items():
            if giver != gateway:
                ways[giver][between] = part * of_it * (1 - TRANSITIVITY_DECAY)
    return {peer: _merit(direct.get(peer, 0.0), ways[peer]) for peer in {*direct, *ways}}


def _merit(direct: float, ways: Mapping[str, float]) -> float:
    """`ways` are the walks through others, by whom they come through."""
    merit = direct + sum(ways.values())
    is_behind_one = max(ways.values(), default=0.0) > BRIDGE * merit
    return merit * (1 - CONNECTIVITY_DECAY) if is_behind_one else merit


def _parts(received: Received, receiver: str) -> dict[str, float]:
    """Where a walk goes from here, as parts of 1."""
    given = {giver: tokens for giver, tokens in received.get(receiver, {}).items() if tokens > 0 and giver != receiver}
    total = sum(given.values())
    return {giver: tokens / total for giver, tokens in given.items()}
