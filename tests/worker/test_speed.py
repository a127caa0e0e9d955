"""Tokens per second over streams that run together. Steps whose length is known are in engine/test_speed.py."""

from __future__ import annotations

import pytest

from p2pnet.worker.observability.load import SPEED_MEMORY_S
from p2pnet.worker.speed import StreamSpeed


def test_what_is_long_ago_fades() -> None:
    now_s = 0.0
    speed = StreamSpeed(lambda: now_s, lambda: 1, SPEED_MEMORY_S, 0.1)
    speed.begin()
    for pause_s, times in ((1.0, 1000), (0.5, round(2 * 5 * SPEED_MEMORY_S))):
        for _ in range(times):
            now_s += pause_s
            speed.note(1)
        assert speed.measure.value == pytest.approx(1 / pause_s, rel=0.02)


def test_speed_is_over_all_answers_together_while_they_arrive() -> None:
    now = [100.0]
    speed = StreamSpeed(lambda: now[0], lambda: int(now[0] * 1000), memory_s=5.0, min_s=1.0)
    for _ in range(2):
        speed.begin()
    for _ in range(80):
        now[0] += 0.125
        speed.note(1)
        speed.note(1)
    assert speed.measure.value == pytest.approx(16, rel=0.06)
    speed.end()
    speed.end()
    before = speed.measure
    now[0] += 1000
    speed.begin()
    speed.note(0)
    assert speed.measure == before, "idle time does not count"


def test_nothing_is_said_before_enough_was_computed() -> None:
    now = [0.0]
    speed = StreamSpeed(lambda: now[0], lambda: 1, memory_s=5.0, min_s=1.0)
    speed.begin()
    for is_known in (False, False, False, True):
        now[0] += 0.3
        speed.note(3)
        assert bool(speed.measure.sampled_ms) is is_known
    assert speed.measure.value == pytest.approx(10, rel=0.15)
