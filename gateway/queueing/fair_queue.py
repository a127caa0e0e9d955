"""Decides which of the waiting requests is next, fairly between callers. Knows no clock, no worker and no task.

Deficit round robin (Shreedhar & Varghese 1995): in each round every caller may spend its share of tokens, and what is
left of it counts in the next round, for as long as it has requests waiting. The rounds are computed, not walked: a
request's turn comes in the first round in which its caller's shares add up to its cost. A request that cannot be
placed is passed over by those behind it, its own caller's included.

Requests that go on after a failure are urgent and come before all: their clients are in the middle of an answer, and
there are never more of them than were being served. They were paid for when they first came.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from gateway.interface import Caller

QUANTUM = 256
"""Tokens a caller of priority 0 may spend in each round: about a quarter of a short chat. With a whole chat everybody
who has one request has it in the next round, and a larger share is worth little to who asks now and then. With much
less the lowest shares would be no whole numbers; with more, several requests of one caller are served at a time."""

PRIORITY_FACTOR = 4
"""Each step of priority is worth four times the tokens. Weighted, not strict: whoever is one step below a caller that
always has something waiting still gets a fifth of the tokens, and not nothing for ever."""

MAX_PRIORITY = 3
"""Beyond this, and beyond minus this, a priority is no higher: the highest is worth 4096 of the lowest."""

T = TypeVar("T", bound=Hashable)

Turn = tuple[int, int, int]
"""When a request's turn comes: its round; within a round the larger share first, then who joined first."""


def share_of(priority: int) -> int:
    """Tokens that a caller of this priority may spend in each round."""
    bounded = max(-MAX_PRIORITY, min(MAX_PRIORITY, priority))
    return int(QUANTUM * float(PRIORITY_FACTOR) ** bounded)


class _Line(Generic[T]):
    """One caller's requests in the order they came, and what it has spent since it joined the round robin."""

    def __init__(self, caller: Caller, current_round: int, number: int) -> None:
        self.caller = caller.line
        self.number = number
        self.turn: Turn = (0, 0, 0)
        """When it is listed in the ring: the turn of its first request."""
        self._share = share_of(caller.urgency)
        self._since_round = current_round
        self._spent = 0
        self._numbers: list[int] = []
        self._costs: list[int] = []
        self._items: list[T] = []

    def __len__(self) -> int:
        return len(self._items)

    def append(self, number: int, item: T, cost: int) -> None:
        self._numbers.append(number)
        self._costs.append(cost)
        self._items.append(item)

    def remove(self, number: int) -> None:
        index = self._index(number)
        del self._numbers[index], self._costs[index], self._items[index]

    def holds(self, number: int) -> bool:
        index = self._index(number)
        return index < len(self._numbers) and self._numbers[index] == number

    def after(self, number: int) -> tuple[int, T] | None:
        """The first request that came after that number."""
        index = bisect_right(self._numbers, number)
        return (self._numbers[index], self._items[index]) if index < len(self._items) else None

    def turn_after(self, number: int) -> Turn | None:
        """When the first request after that number would have its turn, if those before it went without."""
        index = bisect_right(self._numbers, number)
        return self._turn_in(self._due(self._costs[index])) if index < len(self._items) else None

    def charge(self, number: int, current_round: int) -> int:
        """Spend what this request costs. Returns the round in which its turn came."""
        cost = self._costs[self._index(number)]
        due = self._due(cost)
        self._since_round, self._spent = self._account_after(cost, current_round)
        return max(due, current_round)

    def turn_of(self, number: int, current_round: int) -> tuple[Turn, int]:
        """When this request's turn comes once those before it were served, and how many those are."""
        index = self._index(number)
        if not index:
            return self._turn_in(self._due(self._costs[0])), 0
        since_round, spent = self._account_after(self._costs[0], current_round)
        spent += sum(itertools.islice(self._costs, 1, index + 1))
        return self._turn_in(since_round + _ceil_div(spent, self._share)), index

    def count_before(self, turn: Turn, current_round: int) -> int:
        """How many of this line's requests come before that turn, if nothing else happens."""
        if not self.turn < turn:
            return 0
        last_round = turn[0] if self.turn[1:] < turn[1:] else turn[0] - 1
        since_round, spent = self._account_after(self._costs[0], current_round)
        to_spend = (last_round - since_round) * self._share - spent
        return 1 + bisect_right(list(itertools.accumulate(itertools.islice(self._costs, 1, None))), to_spend)

    def _account_after(self, cost: int, current_round: int) -> tuple[int, int]:
        """Since which round it has spent how much, once it has spent this too. What it could have spent earlier, had
        there been a slot for its requests, is lost: nobody saves up for a burst."""
        if self._due(cost) < current_round:
            return current_round, 0
        return self._since_round, self._spent + cost

    def _due(self, cost: int) -> int:
        return self._since_round + _ceil_div(self._spent + cost, self._share)

    def _turn_in(self, due_round: int) -> Turn:
        return due_round, -self._share, self.number

    def _index(self, number: int) -> int:
        return bisect_left(self._numbers, number)


class FairQueue(Generic[T]):
    """The requests that wait, each once. Its caller bounds it."""

    def __init__(self) -> None:
        self._round = 0
        self._numbers = itertools.count(1)
        self._urgent: dict[T, None] = {}
        self._lines: dict[str, _Line[T]] = {}
        self._line_of: dict[T, tuple[_Line[T], int]] = {}
        self._ring: list[tuple[Turn, _Line[T], int]] = []
        """All lines, sorted by their first requests' turns: no two turns are equal. The last is `after` in `offers`."""

    def __len__(self) -> int:
        return len(self._urgent) + len(self._line_of)

    def __contains__(self, item: object) -> bool:
        return item in self._line_of or item in self._urgent

    @property
    def in_turn(self) -> int:
        """How many of them wait for their turn: all but the urgent ones."""
        return len(self._line_of)

    def waiting_of(self, caller: str) -> int:
        """How many requests of this caller wait for their turn, the urgent ones not counted."""
        line = self._lines.get(caller)
        return 0 if line is None else len(line)

    def push(self, item: T, caller: Caller, cost: int, is_urgent: bool = False) -> None:
        """`cost` is in tokens. A line's priority is that of the first of its requests here."""
        assert item not in self, "nothing waits twice"
        if is_urgent:
            self._urgent[item] = None
            return
        line = self._lines.get(caller.line)
        if line is None:
            line = self._lines[caller.line] = _Line(caller, self._round, next(self._numbers))
        number = next(self._numbers)
        line.append(number, item, max(1, cost))
        self._line_of[item] = line, number
        if len(line) == 1:
            self._list(line)

    def remove(self, item: T) -> None:
        """It waits no longer, and was not served."""
        if item in self._urgent:
            del self._urgent[item]
            return
        line, number = self._line_of.pop(item)
        self._unlist(line)
        line.remove(number)
        self._list(line)

    def take(self, item: T) -> None:
        """It is served now, at its caller's expense."""
        if item not in self._urgent:
            line, number = self._line_of[item]
            self._round = line.charge(number, self._round)
        self.remove(item)

    def offers(self) -> Iterator[T]:
        """Those that wait, each once, in the order of service. What is offered may be taken before the next is asked
        for, and anything else may happen in between.

        Whose request was offered and not taken is offered the next one after everybody else had an offer: one caller
        with many requests that cannot be placed hides nobody's that can.
        """
        yield from (item for item in list(self._urgent) if item in self._urgent)
        sweep = self._ring.copy()
        while sweep:
            passed: list[tuple[Turn, _Line[T], int]] = []
            while sweep:
                _, line, number = heappop(sweep)
                offer = line.after(number)
                if offer is None:
                    continue
                number, item = offer
                yield item
                turn = line.turn_after(number)
                if turn is None:
                    continue
                if line.holds(number):
                    passed.append((turn, line, number))
                else:
                    heappush(sweep, (turn, line, number))
            sweep = passed
            heapify(sweep)

    def position(self, item: T) -> int:
        """How many are served before it when nobody comes or goes, and itself: 1 is next."""
        if item in self._urgent:
            return 1 + next(index for index, other in enumerate(self._urgent) if other == item)
        own, number = self._line_of[item]
        turn, before = own.turn_of(number, self._round)
        others = sum(line.count_before(turn, self._round) for _, line, _ in self._ring if line is not own)
        return len(self._urgent) + others + before + 1

    def _list(self, line: _Line[T]) -> None:
        turn = line.turn_after(0)
        if turn is None:
            del self._lines[line.caller]
            return
        line.turn = turn
        insort(self._ring, (turn, line, 0))

    def _unlist(self, line: _Line[T]) -> None:
        del self._ring[bisect_left(self._ring, line.turn, key=lambda listed: listed[0])]


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
