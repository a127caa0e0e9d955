"""Chooses the stages of a chain. Decides on data, asks nobody."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from p2pnet.spans import Span

HOP_MS = 20.0
"""What another stage costs beside its computing, where that was not measured: half a round trip between two homes of
one continent."""

UNMEASURED_STEP_MS = 100.0
"""Of a stage that has not computed yet: it is tried where nobody is known to be faster."""

CROWDED = 2.0
"""How much more a stage costs that has to make room first: what it drops of others' is computed again."""

SPREAD = 0.25
"""By how much costs are varied, so that not all drivers take the same of stages that are nearly alike: the fastest
would be slow for all of them."""


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


def choose(
    offers: Sequence[Offer],
    layers: int,
    avoid: Collection[str],
    rng: random.Random,
    round_trips_ms: Mapping[str, float] = MappingProxyType({}),
    span: Span | None = None,
) -> tuple[Leg, ...] | None:
    """The chain through all layers, or those of `span`, that takes the least time by what stages say and what was
    measured, without those to be avoided. None where there is none.

    A shortest path from the first layer to the last: a stage may be used for any part of its layers that begins and
    ends where some stage's do. `round_trips_ms` are those from here to stages; who is not among them is as far as most.
    No stage is used twice, so in rare cases a path is passed by that would be a little faster; none is missed where it
    is the only one, since a stage that was left can always be kept instead.
    """
    first, last = span or (0, layers)
    usable = [offer for offer in offers if offer.peer_id not in avoid and offer.last <= layers]
    costs = {offer: _cost_ms(offer) * (1 + SPREAD * rng.random()) for offer in usable}
    ends = {first, last, *(offer.first for offer in usable), *(offer.last for offer in usable)}
    cuts = sorted(cut for cut in ends if first <= cut <= last)
    best: dict[int, tuple[float, tuple[Leg, ...]]] = {first: (0.0, ())}
    for at in cuts:
        if at not in best:
            continue
        spent, legs = best[at]
        for offer in usable:
            if not offer.first <= at < offer.last or any(leg.peer_id == offer.peer_id for leg in legs):
                continue
            hop_ms = _hop_ms(legs[-1].peer_id if legs else None, offer.peer_id, round_trips_ms)
            for end in cuts[bisect_right(cuts, at) : bisect_right(cuts, offer.last)]:
                share = (end - at) / (offer.last - offer.first)
                back_ms = _hop_ms(None, offer.peer_id, round_trips_ms) if end == layers else 0.0
                total = spent + hop_ms + costs[offer] * share + back_ms
                if end not in best or total < best[end][0]:
                    best[end] = (total, (*legs, Leg(offer.peer_id, at, end)))
    return best[last][1] if last in best else None


def standbys(legs: Sequence[Leg], offers: Sequence[Offer], taken: Collection[str]) -> tuple[Leg, ...]:
    """Stages that can stand by for these parts of a chain: each has all layers of its part, and memory to spare, and is
    not taken. The part that has the fewest to choose from comes first; of several, the fastest is chosen."""
    free = [offer for offer in offers if offer.has_room and offer.peer_id not in taken]
    fitting = {leg: [offer for offer in free if offer.first <= leg.first and leg.last <= offer.last] for leg in legs}
    found: dict[str, Leg] = {}
    for leg, able in sorted(fitting.items(), key=lambda item: len(item[1])):
        left = [offer for offer in able if offer.peer_id not in found]
        if left:
            best = min(left, key=_cost_ms)
            found[best.peer_id] = Leg(best.peer_id, leg.first, leg.last)
    return tuple(found.values())


def _hop_ms(before: str | None, after: str, round_trips_ms: Mapping[str, float]) -> float:
    """From the stage before, None for the driver, to the one after. From the driver half of a round trip. Between
    stages nobody here has measured it: it is at most the way through the driver, and mostly half of that."""
    to_after_ms = round_trips_ms.get(after, 2 * HOP_MS) / 2
    if before is None:
        return to_after_ms
    return (round_trips_ms.get(before, 2 * HOP_MS) / 2 + to_after_ms) / 2


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
