"""Shares a worker's slots among gateways: one alone may have all, several a fair share each.

A function of counts and of the time it is given. Knows nothing of requests, nor of who a gateway is.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping

MEMORY_S = 10.0
"""How long a gateway that has asked for a slot, or given one back, is counted among those that share. One that was
refused comes again within 2 s, and one with a request every few seconds finds a slot; nothing is kept longer for who
does not come back."""

MAX_REMEMBERED = 256
"""Gateways that hold no slot and are counted all the same. Identities cost nothing, and each remembered one costs a
little of every decision."""


def may_take(held: Mapping[str, int], gateway: str, slots: int) -> bool:
    """Whether a gateway may take one more of `slots`. `held` is what each gateway that shares them now holds, this one
    included.

    A gateway may always take its share, rounded down. It may take more as long as a free slot is left for each other
    gateway that is below its own share. So slots that nobody else wants are used, and a gateway that comes finds one.
    What runs is never cut, so shares become fair as running requests end.
    """
    share = max(1, slots // len(held))
    if held[gateway] < share:
        return True
    claims = sum(count < share for other, count in held.items() if other != gateway)
    return slots - sum(held.values()) > claims


class Quota:
    """The counts of one set of slots. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._seen_s: OrderedDict[str, float] = OrderedDict()

    def may_take(self, gateway: str, slots: int, now_s: float) -> bool:
        """Whether this gateway may have one more. A gateway that asks is counted."""
        self._note(gateway, now_s)
        return may_take({seen: self._held[seen] for seen in {*self._held, *self._seen_s}}, gateway, slots)

    @property
    def taken(self) -> int:
        return self._held.total()

    def take(self, gateway: str) -> None:
        self._held[gateway] += 1

    def give_back(self, gateway: str, now_s: float) -> None:
        self._held[gateway] -= 1
        if not self._held[gateway]:
            del self._held[gateway]
        self._note(gateway, now_s)

    def sharing(self, now_s: float) -> frozenset[str]:
        """The gateways that are counted now."""
        self._forget(now_s)
        return frozenset((*self._held, *self._seen_s))

    def _note(self, gateway: str, now_s: float) -> None:
        self._seen_s[gateway] = now_s
        self._seen_s.move_to_end(gateway)
        self._forget(now_s)

    def _forget(self, now_s: float) -> None:
        while self._seen_s:
            seen_s = next(iter(self._seen_s.values()))
            if now_s - seen_s < MEMORY_S and len(self._seen_s) <= MAX_REMEMBERED:
                return
            self._seen_s.popitem(last=False)
