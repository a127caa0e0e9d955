"""Says which outcomes in reports are successes, and which are failures of a worker. Data only, from the tables of
finish reasons and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from gateway.observability.reports import CANCELLED
from p2pnet.errors import Busy, Draining, EndDoubted, NotAllowed, P2PNetError, RequestError
from p2pnet.messages import FinishReason

SUCCESSES: frozenset[str] = frozenset(get_args(FinishReason))


def _codes(kind: type[P2PNetError]) -> Iterator[str]:
    yield kind.code
    for child in kind.__subclasses__():
        yield from _codes(child)


UNTOLD: frozenset[str] = frozenset(
    {CANCELLED, Busy.code, Draining.code, NotAllowed.code, EndDoubted.code, *_codes(RequestError)}
)
"""Outcomes that say nothing of whether the worker is any good: the client went away or asked for what cannot be had,
another worker was quicker or is asked about its end, or this one declined before it began."""

KNOWN: frozenset[str] = SUCCESSES | UNTOLD | frozenset(_codes(P2PNetError))
"""Every outcome there is. Whatever else stands in a report is a mistake, and must not become a label."""


_OWN: frozenset[str] = frozenset({CANCELLED, *_codes(RequestError)})
"""Ends that a request, or its client, has brought about itself."""


def is_success(outcome: str) -> bool:
    return outcome in SUCCESSES


def is_failure(outcome: str) -> bool:
    """Whether it counts against the worker."""
    return outcome not in SUCCESSES and outcome not in UNTOLD


def is_unserved(outcome: str) -> bool:
    """Whether the network has let a request down: it might have been served, and was not."""
    return outcome not in SUCCESSES and outcome not in _OWN
