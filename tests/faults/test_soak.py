"""What the soak makes of its samples: a share that changes is no leak, a leak is one whatever the share does."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from bench.soak import MEMORY, STREAMS, Sample, line_of

SECONDS = 600

Value = Callable[[int, float], float]
"""After so many seconds, with so many streams."""


def wandering(rng: random.Random) -> list[float]:
    """How many streams there are each second."""
    streams = [20.0]
    for _ in range(1, SECONDS):
        streams.append(min(60.0, max(0.0, streams[-1] + rng.choice((-3, 0, 3)))))
    return streams


def growing(rng: random.Random) -> list[float]:
    return [10 + second / 15 + rng.choice((-3, 0, 3)) for second in range(SECONDS)]


def constant(rng: random.Random) -> list[float]:
    return [20.0] * SECONDS


SHARES = {"wandering": wandering, "growing": growing, "constant": constant}

VERDICTS: dict[str, tuple[str, Value, bool]] = {
    "a socket for each stream": ("sockets", lambda second, streams: 7 + streams, True),
    "four tasks for each stream": ("tasks", lambda second, streams: 9 + 4 * streams, True),
    "a socket lost every ten seconds": ("sockets", lambda second, streams: 7 + streams + second / 10, False),
    "a task lost every ten seconds": ("tasks", lambda second, streams: 9 + 4 * streams + second / 10, False),
    "streams that never end": (STREAMS, lambda second, streams: 64 + second / 10, False),
    "as many streams as ever": (STREAMS, lambda second, streams: 64 + second % 9, True),
    "one socket more at the end": ("sockets", lambda second, streams: 7 + streams + (second > 500), True),
    "a heap that is collected": (MEMORY, lambda second, streams: 80 + second % 25, True),
    "a heap that is collected and grows": (MEMORY, lambda second, streams: 80 + second % 25 + second / 30, False),
    "memory that came with the load": (MEMORY, lambda second, streams: 60 + min(second, 100) / 4, True),
}


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize(("what", "value", "is_flat"), VERDICTS.values(), ids=VERDICTS)
def test_what_is_flat(share: Callable[[random.Random], list[float]], what: str, value: Value, is_flat: bool) -> None:
    rng = random.Random(1)
    samples = [
        Sample(second, streams, value(second, streams) + rng.choice((-1, 0, 1)))
        for second, streams in enumerate(share(rng))
    ]
    assert line_of("gateway", what, samples).is_flat == is_flat
