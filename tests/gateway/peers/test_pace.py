"""What is measured: an average that rises at once and falls slowly, and quantiles of the last samples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.peers.pace import MEMORY_S, WINDOW, PeakEwma, Window


@pytest.mark.parametrize(
    ("samples", "value"),
    [
        ([], None),
        ([(0, 2.0)], 2.0),
        ([(0, 2.0), (1, 5.0)], 5.0),
        ([(0, 2.0), (0, 1.0)], 2.0),
        ([(0, 2.0), (MEMORY_S, 1.0)], 1 + 1 / math.e),
        ([(0, 2.0), (1e9, 1.0)], 1.0),
        ([(0, 2.0), (1e9, 0.0), (1e9, 0.0)], 0.0),
        ([(5, 2.0), (0, 1.0)], 2.0),  # a clock that goes back
    ],
)
def test_it_rises_at_once_and_falls_by_age(samples: list[tuple[float, float]], value: float | None) -> None:
    average = PeakEwma()
    for now_s, sample in samples:
        average.note(sample, now_s)
    assert average.value == (None if value is None else pytest.approx(value))


def test_half_a_minute_of_quick_samples_makes_a_slow_one_forgotten() -> None:
    average = PeakEwma()
    average.note(10.0, 0.0)
    for second in range(1, 31):
        average.note(0.1, float(second))
    assert average.value == pytest.approx(0.1, abs=0.5)
    assert average.noted_s == 30.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e6)), min_size=1))
def test_it_is_never_outside_of_what_was_measured(samples: list[tuple[float, float]]) -> None:
    average, now_s = PeakEwma(), 0.0
    for passed_s, sample in samples:
        now_s += passed_s
        average.note(sample, now_s)
    values = [sample for _, sample in samples]
    assert average.value is not None
    assert min(values) * (1 - 1e-9) <= average.value <= max(values) * (1 + 1e-9)
    assert average.value >= samples[-1][1] * (1 - 1e-9)


@pytest.mark.parametrize(
    ("samples", "q", "value"),
    [
        ([], 0.5, None),
        ([3.0], 0.0, 3.0),
        ([3.0], 1.0, 3.0),
        ([3.0, 1.0, 2.0, 4.0], 0.0, 1.0),
        ([3.0, 1.0, 2.0, 4.0], 0.5, 2.0),
        ([3.0, 1.0, 2.0, 4.0], 0.51, 3.0),
        ([3.0, 1.0, 2.0, 4.0], 1.0, 4.0),
        ([float(number) for number in range(100)], 0.95, 94.0),
    ],
)
def test_a_quantile_is_the_sample_that_so_many_do_not_exceed(
    samples: list[float], q: float, value: float | None
) -> None:
    window = Window()
    for sample in samples:
        window.note(sample)
    assert window.quantile(q) == value
    assert window.mean() == (sum(samples) / len(samples) if samples else None)


def test_only_the_last_samples_count() -> None:
    window = Window()
    for number in range(3 * WINDOW):
        window.note(float(number))
    assert len(window) == WINDOW
    assert (window.quantile(0.0), window.quantile(1.0)) == (2.0 * WINDOW, 3.0 * WINDOW - 1)
