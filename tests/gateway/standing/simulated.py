"""A gateway's book and its full queue, with volunteers, free riders and those who want to be taken for volunteers."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable

from gateway.interface import Caller, Volunteer
from gateway.queueing.fair_queue import FairQueue
from gateway.standing.book import Book, Sum, Word
from gateway.standing.merit import priority_of

NOW_S = 1_800_000_000.0
ANSWER_TOKENS = 1024
SLOTS = 8
LOAD = 0.95
"""Of what the workers can serve."""

VOLUNTEERS = [f"volunteer-{n}" for n in range(20)]
RIDERS = [f"rider-{n}" for n in range(60)]
SYBILS = [f"sybil-{n}" for n in range(1000)]
CALLERS = [*VOLUNTEERS, *RIDERS]
ROUNDS = 20
"""So often each caller has had an answer of each volunteer's worker."""

SYBILS_ADDRESS = "198.51.100.1"


def usual_book() -> Book:
    """Of a gateway whose volunteers have all given the same to all callers: 32,000 answers."""
    book = Book(unix_s=lambda: NOW_S)
    for _ in range(ROUNDS):
        for caller in CALLERS:
            for worker in VOLUNTEERS:
                book.note(worker, caller, ANSWER_TOKENS)
    return book


def serve(book: Book, worker: str, answers: int) -> None:
    """It answers so many requests of the usual callers, in turn."""
    for number in range(answers):
        book.note(worker, CALLERS[number % len(CALLERS)], ANSWER_TOKENS)


def praise(book: Book, peer: str, of: Iterable[str]) -> None:
    """The gateways that a peer vouches for sign whatever it likes."""
    for worker in of:
        book.hear(Word(peer, f"{peer}'s gateway", worker), Sum(1e12, NOW_S))


def caller_for(book: Book, asker: str, has_claim: bool = True) -> Caller:
    """Who asks, with the key of its own worker; all invented ones from one address."""
    address = SYBILS_ADDRESS if asker.startswith("sybil") else asker
    return Caller(address, volunteer=Volunteer(asker, 0, priority_of(book.merit(asker))) if has_claim else None)


def part_of(group: Callable[[str], bool], askers: Iterable[Caller], turns: int = 3000) -> float:
    """The part of a full queue's turns that a group of lines gets when all of them ask all the time."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    lines = {asker.line: asker for asker in askers}
    for line, asker in lines.items():
        queue.push((line, 0), asker, ANSWER_TOKENS)
    served: Counter[bool] = Counter()
    for number in range(1, turns + 1):
        line, _ = first = next(queue.offers())
        queue.push((line, number), lines[line], ANSWER_TOKENS)  # before the other goes: a line that is empty is none
        queue.take(first)
        served[group(line)] += 1
    return served[True] / turns


def waits(book: Book, rng: random.Random, requests: int) -> dict[str, list[float]]:
    """How long each caller waits, in a queue with Poisson arrivals and exponential service of a second."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    callers = {asker: caller_for(book, asker) for asker in CALLERS}
    arrived_s: dict[tuple[str, int], float] = {}
    waited_s: dict[str, list[float]] = {asker: [] for asker in CALLERS}
    ends_s: list[float] = []
    now_s = 0.0

    def begin(at_s: float) -> None:
        first = next(queue.offers())
        queue.take(first)
        waited_s[first[0]].append(at_s - arrived_s.pop(first))
        heapq.heappush(ends_s, at_s + rng.expovariate(1.0))

    for number in range(requests):
        now_s += rng.expovariate(LOAD * SLOTS)
        while ends_s and ends_s[0] <= now_s:
            ended_s = heapq.heappop(ends_s)
            if len(queue):
                begin(ended_s)
        item = rng.choice(CALLERS), number
        arrived_s[item] = now_s
        queue.push(item, callers[item[0]], ANSWER_TOKENS)
        if len(ends_s) < SLOTS:
            begin(now_s)
    return waited_s
