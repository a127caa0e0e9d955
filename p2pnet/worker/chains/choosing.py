"""Chooses the stages of a chain, and says which layers nobody has. Decides on data, asks nobody."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

HOP_MS = 20.0
"""What another stage costs beside its computing: half a round trip between two homes of one continent."""

UNMEASURED_STEP_MS = 100.0
"""Of a stage that has not computed yet: it is tried where nobody is known to be faster."""

CROWDED = 2.0
"""How much more a stage costs that has to make room first: what it drops of others' is computed again."""

SPREAD = 0.1
"""By how much costs are varied, so that of stages that are alike not all drivers take the same."""


@dataclass(frozen=True)
class Offer:
    """Layers [first, last) that a stage has, and how long a forward pass through them takes there; 0 is unmeasured."""

    peer_id: str
    first: int
    last: int
    step_ms: float = 0.0
    has_room: bool = True
    """Whether it says that it has memory for a conversation to spare."""


@dataclass(frozen=True)
class Leg:
    """The part of a chain at one stage: layers [first, last)."""

    peer_id: str
    first: int
    last: int


def choose(offers: Sequence[Offer], layers: int, avoid: Collection[str], rng: random.Random) -> tuple[Leg, ...] | None:
    """The chain through all layers that takes the least time by what stages say, without those to be avoided. None
    where there is none. A stage may be used for the later part of its layers only."""
    usable = [offer for offer in offers if offer.peer_id not in avoid and offer.last <= layers]
    costs = {offer: _cost_ms(offer) * (1 + SPREAD * rng.random()) for offer in usable}
    best: dict[int, tuple[float, tuple[Leg, ...]]] = {0: (0.0, ())}
    for at in range(layers):
        if at not in best:
            continue
        spent, legs = best[at]
        for offer in usable:
            if not offer.first <= at < offer.last or any(leg.peer_id == offer.peer_id for leg in legs):
                continue
            share = (offer.last - at) / (offer.last - offer.first)
            total = spent + HOP_MS + costs[offer] * share
            if offer.last not in best or total < best[offer.last][0]:
                best[offer.last] = (total, (*legs, Leg(offer.peer_id, at, offer.last)))
    return best[layers][1] if layers in best else None


def _cost_ms(offer: Offer) -> float:
    return (offer.step_ms or UNMEASURED_STEP_MS) * (1.0 if offer.has_room else CROWDED)


def lanes(legs: Sequence[Leg], offers: Sequence[Offer], row_ms: float = 0.0) -> int:
    """How many steps are worth having under way in a chain: as many as the slowest stage's time goes into that of all,
    or into what a row takes in fact, `row_ms`, round trips included. With fewer it waits for others; with more, each
    step has fewer sequences than it could compute in the same time."""
    by_peer = {offer.peer_id: offer for offer in offers}
    known = [(by_peer[leg.peer_id], leg) for leg in legs if leg.peer_id in by_peer]
    times = [offer.step_ms * (leg.last - leg.first) / (offer.last - offer.first) for offer, leg in known]
    if len(times) < len(legs) or not all(times):
        return len(legs)
    return max(1, round(max(sum(times), row_ms) / max(times)))


def missing(offers: Sequence[Offer], layers: int) -> tuple[tuple[int, int], ...]:
    """The spans of layers that nobody has, in order."""
    covered = [any(offer.first <= layer < offer.last for offer in offers) for layer in range(layers)]
    gaps: list[tuple[int, int]] = []
    for layer in range(layers):
        if covered[layer]:
            continue
        if gaps and gaps[-1][1] == layer:
            gaps[-1] = (gaps[-1][0], layer + 1)
        else:
            gaps.append((layer, layer + 1))
    return tuple(gaps)


def in_words(gaps: Sequence[tuple[int, int]]) -> str:
    """What is missing, for people: `layers 12 to 18 are missing`, the last number not among them."""
    return "layers " + " and ".join(f"{first} to {last}" for first, last in gaps) + " are missing"
