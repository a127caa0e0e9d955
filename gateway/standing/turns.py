"""Says whose turn comes sooner for its merit, and in whose line a request waits. Pure.

Merit buys order in a queue that is full, and nothing else. The shares that a group of identities has together are at
most in proportion to their merit together, so it gains nothing by being many: shares are powers of four, rounded down.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log

from gateway.interface import Caller

LEAST_MERIT = 0.001
"""The merit that one share stands for. A share of four, the least that is worth asking for, is four thousandths of what
this gateway has received: of more than 250 peers no gateway has to know the standing."""

MAX_PRIORITY = 3
"""As in the fair queue: 64 shares, for who has given a fifteenth of all."""

FACTOR = 4
"""Of shares, from one priority to the next: as in the fair queue."""


def priority_of(merit: float) -> int:
    """Its share of the turns is `FACTOR ** priority`, at most `merit / LEAST_MERIT`."""
    if merit < FACTOR * LEAST_MERIT:
        return 0
    return min(MAX_PRIORITY, floor(log(merit / LEAST_MERIT * (1 + 1e-9), FACTOR)))


def caller_for(address: str, peer: str | None, merits: Mapping[str, float]) -> Caller:
    """Who asks: from this address, with the proven standing of this peer, if any. Without enough of it a request waits
    in its address's line as ever: an invented identity is no further line."""
    priority = 0 if peer is None else priority_of(merits.get(peer, 0.0))
    return Caller(address) if peer is None or not priority else Caller(peer, priority)
