"""Names the colours of text in a terminal. Each can be read on a white ground as well as on a black one, which the
named ones of most terminals cannot: their yellow on white is hardly there."""

from __future__ import annotations

GOOD = "color(28)"
WARNING = "color(130)"
BAD = "color(160)"
"""Of xterm's 256, which are the same everywhere; on a terminal with fewer the nearest is shown."""
