"""Decides when a silent worker is asked whether it is there, and when it is given up. Pure.

Like Hayashibara's accrual detector (2004), it goes by the worker's own times: what is long for one that sends fifty
frames a second is usual for one that sends one in two seconds.
"""

from __future__ import annotations

from gateway.peers.pace import Window

LONGEST = 0.99
"""The quantile of a worker's own gaps that everything is measured by."""

MIN_SAMPLES = 8

MIN_SUSPICION_S = 0.3
SUSPICION = 2.0
"""A worker that is silent for two of its longest gaps is asked. Asking costs a few milliseconds and harms nobody, and
for as long as it is put off clients wait."""

FIRST_SUSPICION_S = 1.0
"""The same before its first token, where a long prompt is a good reason for silence."""

MIN_GIVE_UP_S = 10.0
GIVE_UP = 30.0
"""A worker that is there, and sends nothing for thirty of its longest gaps, is stuck."""

UNKNOWN_GIVE_UP_S = 30.0
"""The same in mid-answer where too few of its gaps are known: no model in use takes this long for one token."""


def suspicion_s(gaps: Window, has_token: bool) -> float:
    """Silence after which a worker is asked whether it is still there."""
    if not has_token:
        return FIRST_SUSPICION_S
    longest_s = gaps.quantile(LONGEST) if len(gaps) >= MIN_SAMPLES else None
    return FIRST_SUSPICION_S if longest_s is None else max(MIN_SUSPICION_S, SUSPICION * longest_s)


def give_up_s(gaps: Window, has_token: bool, limit_s: float) -> float:
    """Silence after which a stream is given up although its worker answers. `limit_s` is the limit for any worker."""
    if not has_token:
        return limit_s
    longest_s = gaps.quantile(LONGEST) if len(gaps) >= MIN_SAMPLES else None
    usual_s = UNKNOWN_GIVE_UP_S if longest_s is None else max(MIN_GIVE_UP_S, GIVE_UP * longest_s)
    return min(limit_s, usual_s)
