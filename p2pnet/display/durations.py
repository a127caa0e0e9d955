"""Writes lengths of time as people read them. Knows nothing of clocks."""

from __future__ import annotations

MINUTE_S = 60
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S


def duration(seconds: float) -> str:
    """The length in its two largest units: 45 s, 3 min, 2 h 5 min, 4 d 1 h."""
    whole_s = max(0, int(seconds))
    if whole_s < MINUTE_S:
        return f"{whole_s} s"
    if whole_s < HOUR_S:
        return f"{whole_s // MINUTE_S} min"
    if whole_s < DAY_S:
        return f"{whole_s // HOUR_S} h {whole_s % HOUR_S // MINUTE_S} min"
    return f"{whole_s // DAY_S} d {whole_s % DAY_S // HOUR_S} h"


def milliseconds(seconds: float) -> str:
    """The length of a short wait: 0.4 ms, 12 ms, 1.5 s."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.1f} ms" if seconds < 0.001 else f"{1000 * seconds:.0f} ms"
