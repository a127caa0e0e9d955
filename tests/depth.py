"""How deep the suite looks: `ci` before each change, one small case of everything; `deep` now and then, all of it.

Chosen by P2PNET_TEST_DEPTH. Tests that only the deep suite runs are marked `deep`.
"""

from __future__ import annotations

import os
from typing import TypeVar

VARIABLE = "P2PNET_TEST_DEPTH"
PROFILES = {"ci": 40, "deep": 100}
"""How many examples hypothesis tries of a property that asks for no number of its own."""

T = TypeVar("T")

depth = os.environ.get(VARIABLE, "ci")
if depth not in PROFILES:
    raise ValueError(f"{VARIABLE} is {depth!r}: it can be {' or '.join(PROFILES)}.")
is_deep = depth == "deep"


def scaled(ci: T, deep: T) -> T:
    """How much of something a test looks at."""
    return deep if is_deep else ci


def examples(deep: int) -> int:
    """For the `max_examples` of a property that is worth more or less than others."""
    return scaled(min(deep, PROFILES["ci"]), deep)
