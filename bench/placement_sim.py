"""Volunteers that come and go, and where they go: our rule beside Petals', on the same trace.

    python -m bench.placement_sim [--volunteers N] [--layers N] [--hours H] [--seed N]... [--json [FILE]]

Simulated: the rules, on a clock that jumps. Ours is the code itself, `p2pnet.worker.placement.choosing`; Petals' is
its published one (`server/block_selection.py` at 02dfbc7, balance quality 0.75, a look every 120 s on average). A
volunteer stays for an hour in the median and is replaced; half leave without a word, and are believed for as long as a
record lives. What is announced is seen seconds later. Layers are those of a model of 405 billion parameters in 8 bits,
3.2 GB each; memory is 6 to 24 GB, speeds differ by a factor of five or so. Whoever moves serves nothing meanwhile.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from p2pnet.config import DirectoryConfig
from p2pnet.worker.placement.choosing import Post, Span, believed, best_span, better_span, rates_of, seen_by
from p2pnet.worker.placement.placer import CLAIM_S, LOOK_S, MAX_CLAIMS

MEMORY_GB, MEMORY_WEIGHTS = (6, 8, 12, 16, 24), (2, 3, 3, 2, 1)
LAYER_GB = 3.2
LAYER_MS, LAYER_MS_SPREAD = 12.0, 0.5
"""Of a pass through one layer: the median, and the standard deviation of its logarithm."""
LOAD_S, LOAD_LAYER_S = 20.0, 10.0
"""What loading takes: so much, and so much for each layer, from a hard disk that is not slow."""
MEDIAN_STAY_S = 3600.0
SEEN_AFTER_S = 2.0
WARM_UP_S = 1800.0
SAMPLE_S = 5.0

PETALS_QUALITY = 0.75
PETALS_LOOK_S = 120.0
PETALS_DELAY_S = 5.0
"""A newcomer waits up to twice as long before it chooses."""
PETALS_EPSILON = 1e-3
PETALS_SWEEPS = 20
"""Petals goes on for as long as anybody would move; more than so many rounds were never needed for an answer here."""


@dataclass(frozen=True)
class Volunteer:
    """One of a trace: when it comes and goes, and what it has."""

    name: str
    comes_s: float
    goes_s: float
    length: int
    step_ms: float
    says_goodbye: bool

    @property
    def load_s(self) -> float:
        return LOAD_S + LOAD_LAYER_S * self.length


@dataclass
class Figures:
    """Of one rule, after the time in which all come."""

    whole: float = 0.0
    """The share of time with a whole chain."""
    passes_per_s: float = 0.0
    """Of the slowest layer, on average; 0 while one is missing."""
    moves_per_hour: float = 0.0
    """Of all volunteers together."""
    longest_gap_s: float = 0.0


def trace(volunteers: int, hours: float, layers: int, rng: random.Random) -> list[Volunteer]:
    """All that come, in order: so many at first, within some minutes, and then one for each that goes."""
    found, until_s = [], WARM_UP_S + hours * 3600
    for place in range(volunteers):
        at_s = rng.uniform(0, WARM_UP_S / 3)
        while at_s < until_s:
            stay_s = rng.expovariate(0.693 / MEDIAN_STAY_S)
            length = min(layers, int(rng.choices(MEMORY_GB, MEMORY_WEIGHTS)[0] // LAYER_GB))
            step_ms = length * LAYER_MS * rng.lognormvariate(0.0, LAYER_MS_SPREAD)
            name = f"{place:03}.{len(found):05}"
            found.append(Volunteer(name, at_s, at_s + stay_s, length, step_ms, rng.random() < 0.5))
            at_s += stay_s
    return sorted(found, key=lambda each: each.comes_s)


@dataclass
class World:
    """Who announces what, and when that is seen."""

    layers: int
    now_s: float = 0.0
    moves: int = 0
    said: dict[str, list[tuple[float, Post | None]]] = field(default_factory=dict)
    serving: dict[str, Post] = field(default_factory=dict)

    def say(self, name: str, post: Post | None, after_s: float = SEEN_AFTER_S) -> None:
        self.said.setdefault(name, []).append((self.now_s + after_s, post))

    def others(self, name: str) -> list[Post]:
        found = []
        for other, said in list(self.said.items()):
            while len(said) > 1 and said[1][0] <= self.now_s:
                said.pop(0)
            seen_s, post = said[0]
            if seen_s <= self.now_s and post is None and len(said) == 1:
                del self.said[other]
            elif seen_s <= self.now_s and post is not None and other != name:
                found.append(post)
        return found

    def gone(self, volunteer: Volunteer) -> None:
        self.serving.pop(volunteer.name, None)
        lifetime_s = 0.0 if volunteer.says_goodbye else DirectoryConfig().stage_lifetime_s
        self.say(volunteer.name, None, SEEN_AFTER_S + lifetime_s)


Life = Callable[[World, Volunteer, random.Random], Iterator[float]]
"""What a volunteer does, by a rule: it gives how many seconds it waits each time."""


def served(world: World, volunteer: Volunteer, span: Span, since_ms: int) -> Iterator[float]:
    """Load layers, and serve them."""
    world.serving.pop(volunteer.name, None)
    claim = Post(volunteer.name, *span, volunteer.step_ms, is_ready=False, since_ms=since_ms)
    world.say(volunteer.name, claim)
    yield volunteer.load_s
    post = replace(claim, is_ready=True)
    world.serving[volunteer.name] = post
    world.say(volunteer.name, post)


def our_life(world: World, volunteer: Volunteer, rng: random.Random) -> Iterator[float]:
    """As `Placer`: claim, look again, load; and look from time to time."""
    name, layers = volunteer.name, world.layers

    def known() -> list[Post]:
        return believed(world.others(name), round(world.now_s * 1000))

    def claim_of(span: Span) -> Post:
        claim = Post(name, *span, is_ready=False, since_ms=since_ms)
        world.say(name, claim)
        return claim

    since_ms = round(world.now_s * 1000)
    span = best_span(known(), layers, volunteer.length)
    for _ in range(MAX_CLAIMS):
        claim = claim_of(span)
        yield CLAIM_S
        again = best_span(seen_by(claim, known()), layers, volunteer.length)
        if again == span:
            break
        span = again
    yield from served(world, volunteer, span, since_ms)
    while True:
        yield LOOK_S * rng.uniform(0.5, 1.5)
        own, before = world.serving[name], known()
        better = better_span(own, before, layers)
        if better is None:
            continue
        since_ms = round(world.now_s * 1000)
        claim = claim_of(better)
        yield CLAIM_S
        if better_span(own, seen_by(claim, known(), before), layers) != better:
            world.say(name, own)
            continue
        world.moves += 1
        yield from served(world, volunteer, better, since_ms)


def petals_life(world: World, volunteer: Volunteer, rng: random.Random) -> Iterator[float]:
    """As a server of Petals: choose, load; look from time to time whether all would be better off elsewhere."""
    yield PETALS_DELAY_S * 2 * rng.random()
    start = least_start(rates_of(world.others(volunteer.name), world.layers), volunteer.length)
    yield from served(world, volunteer, (start, start + volunteer.length), 0)
    while True:
        yield PETALS_LOOK_S * 2 * rng.random()
        own = world.serving[volunteer.name]
        if petals_moves(own, [*world.others(volunteer.name), own], world.layers, rng):
            world.moves += 1
            start = least_start(rates_of(world.others(volunteer.name), world.layers), volunteer.length)
            yield from served(world, volunteer, (start, start + volunteer.length), 0)


def least_start(rates: Sequence[float], length: int) -> int:
    """Petals' choice for one server. The least window holds a least layer: so others are not looked at."""
    least, last = min(rates), len(rates) - length
    layers = (layer for layer, rate in enumerate(rates) if rate == least)
    starts = {start for layer in layers for start in range(max(0, layer - length + 1), min(layer, last) + 1)}
    return min(starts, key=lambda start: (sorted(rates[start : start + length]), start))


def petals_moves(own: Post, posts: Sequence[Post], layers: int, rng: random.Random) -> bool:
    """Petals' `should_choose_other_blocks`: whether what is now is less than three quarters of what there would be if
    this server went where it is best, and then all others did."""
    rates = rates_of(posts, layers)
    now = min(rates)
    starts = {post.peer_id: post.first for post in posts}
    lengths = {post.peer_id: post.last - post.first for post in posts}
    speeds = {post.peer_id: post.passes_per_s for post in posts}

    def add(name: str, share: float) -> None:
        for layer in range(starts[name], starts[name] + lengths[name]):
            rates[layer] += share * speeds[name]

    add(own.peer_id, -(1 + PETALS_EPSILON))
    if now > PETALS_EPSILON and min(rates) <= 0:
        return False
    start = least_start(rates, lengths[own.peer_id])
    if start == own.first:
        return False
    add(own.peer_id, PETALS_EPSILON)
    starts[own.peer_id] = start
    add(own.peer_id, 1.0)
    names = list(starts)
    for _ in range(PETALS_SWEEPS):
        rng.shuffle(names)
        has_moved = False
        for name in names:
            add(name, -(1 + PETALS_EPSILON))
            start = least_start(rates, lengths[name])
            add(name, PETALS_EPSILON)
            has_moved |= start != starts[name]
            starts[name] = start
            add(name, 1.0)
        if not has_moved:
            break
    then = min(rates)
    if then < now or then < PETALS_EPSILON:
        return False
    return now / then < PETALS_QUALITY - PETALS_EPSILON


def run(life: Life, volunteers: Sequence[Volunteer], hours: float, layers: int, seed: int) -> Figures:
    """One rule on one trace."""
    world, rng, figures = World(layers), random.Random(seed), Figures()
    number = itertools.count()
    events: list[tuple[float, int, Callable[[], None]]] = []
    until_s, gap_s = WARM_UP_S + hours * 3600, 0.0

    def at(when_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(events, (when_s, next(number), act))

    def go_on(volunteer: Volunteer, steps: Iterator[float]) -> None:
        if world.now_s < volunteer.goes_s:
            at(world.now_s + next(steps), lambda: go_on(volunteer, steps))

    def sample() -> None:
        nonlocal gap_s
        at(world.now_s + SAMPLE_S, sample)
        if world.now_s < WARM_UP_S:
            world.moves = 0
            return
        slowest = min(rates_of(world.serving.values(), layers))
        share = SAMPLE_S / (hours * 3600)
        figures.whole += share * (slowest > 0)
        figures.passes_per_s += share * slowest
        gap_s = 0.0 if slowest else gap_s + SAMPLE_S
        figures.longest_gap_s = max(figures.longest_gap_s, gap_s)

    for each in volunteers:
        at(each.comes_s, lambda each=each: go_on(each, life(world, each, rng)))  # type: ignore[misc]
        at(each.goes_s, lambda each=each: world.gone(each))  # type: ignore[misc]
    at(0.0, sample)
    while events and events[0][0] < until_s:
        world.now_s, _, act = heapq.heappop(events)
        act()
    figures.moves_per_hour = world.moves / hours
    return figures


RULES: dict[str, Life] = {"ours": our_life, "Petals'": petals_life}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volunteers", type=int, default=200)
    parser.add_argument("--layers", type=int, default=126)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    arguments = parser.parse_args()
    found: list[dict[str, object]] = []
    table = Table("Trace", "Rule", "A whole chain", "Slowest layer, passes/s", "Moves an hour", "Longest gap, s")
    for seed in arguments.seed:
        volunteers = trace(arguments.volunteers, arguments.hours, arguments.layers, random.Random(seed))
        for name, life in RULES.items():
            figures = run(life, volunteers, arguments.hours, arguments.layers, seed)
            found.append({"seed": seed, "rule": name, **asdict(figures)})
            rate = f"{figures.passes_per_s:.1f}"
            moves, gap = f"{figures.moves_per_hour:.0f}", f"{figures.longest_gap_s:.0f}"
            table.add_row(str(seed), name, f"{figures.whole:.2%}", rate, moves, gap)
    if arguments.json == "-":
        print(json.dumps(found, indent=2))
    elif arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    Console(stderr=arguments.json == "-").print(table)


if __name__ == "__main__":
    main()
