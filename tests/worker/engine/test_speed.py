"""The speedometer: tokens a second over windows of work, smoothed, and when it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from p2pnet.messages import Measure
from p2pnet.worker.engine.speed import SMOOTHING, WINDOW_S, Speedometer


def speed_after(*steps: tuple[int, int, float]) -> Speedometer:
    """The clock says 1000, 2000, ... ms, each time it is asked."""
    clock: Iterator[int] = iter(range(1000, 100_000, 1000))
    speed = Speedometer(lambda: next(clock))
    for step in steps:
        speed.note(*step)
    return speed


SECOND = 100 + SMOOTHING * (300 - 100)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([], Measure(), id="nothing yet"),
        pytest.param([(5, 0.05)], Measure(100, 1000), id="the first step counts at once"),
        pytest.param([(0, 3.0)], Measure(), id="a step without tokens says nothing"),
        pytest.param([(5, 0.0)], Measure(), id="a step without a duration does not either"),
        pytest.param([(5, 0.0), (5, 0.1)], Measure(100, 1000), id="but its tokens count"),
        pytest.param([(5, 0.05), (30, 0.1)], Measure(100, 1000), id="one more step is too little"),
        pytest.param([(5, 0.05), (90, 0.3), (60, 0.2)], Measure(SECOND, 2000), id="a window is enough"),
        pytest.param([(5, 0.05), (90, 0.3), (0, 9.0), (60, 0.2)], Measure(SECOND, 2000), id="idle time is not work"),
    ],
)
def test_rates(steps: list[tuple[int, float]], expected: Measure) -> None:
    assert WINDOW_S == 0.5
    decode = speed_after(*((tokens, 0, duration_s) for tokens, duration_s in steps)).decode_tokens_per_s
    prefill = speed_after(*((0, tokens, duration_s) for tokens, duration_s in steps)).prefill_tokens_per_s
    assert (decode.value, decode.sampled_ms) == (pytest.approx(expected.value), expected.sampled_ms)
    assert prefill == decode


def test_a_step_counts_for_both_in_full() -> None:
    speed = speed_after((8, 128, 0.5))
    assert speed.decode_tokens_per_s.value == 16
    assert speed.prefill_tokens_per_s.value == 256


def test_it_follows_a_change_within_some_seconds_of_work() -> None:
    speed = speed_after(*[(50, 0, 0.5)] * 10, *[(5, 0, 0.5)] * 20)
    assert speed.decode_tokens_per_s.value == pytest.approx(10, rel=0.02)
