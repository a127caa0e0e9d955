"""What is usual of a model: the median of those that have answered, without the one that is judged."""

from __future__ import annotations

import pytest

from gateway.dispatch.usual import MAX_MODELS, MAX_WORKERS, MIN_SAMPLES, READ_TOGETHER, SAMPLES, Usual

KEY = ("tiny", "generate")
SHORT = 10


def usual(**first_token_s: float) -> Usual:
    """Each worker with what its answers took, half of it for each further token."""
    made = Usual()
    for name, seconds in first_token_s.items():
        for _ in range(MIN_SAMPLES):
            made.note(KEY, name, SHORT, seconds, seconds / 2)
    return made


@pytest.mark.parametrize(
    ("workers", "judged", "expected"),
    [
        ({}, "a", None),
        ({"a": 1.0}, "a", 1.0),  # nobody else has answered
        ({"a": 1.0}, "b", 1.0),
        ({"a": 1.0, "b": 5.0}, "a", 5.0),
        ({"a": 1.0, "b": 5.0}, "c", 1.0),
        ({"a": 1.0, "b": 2.0, "liar": 100.0}, "liar", 1.0),
        ({"a": 1.0, "b": 2.0, "liar": 0.001}, "c", 1.0),
        ({"a": 1.0, "b": 2.0, "c": 3.0, "liar": 100.0, "other": 200.0}, "d", 3.0),
    ],
)
def test_the_median_of_the_others(workers: dict[str, float], judged: str, expected: float | None) -> None:
    made = usual(**workers)
    assert made.first_token_s(KEY, SHORT, judged) == (None if expected is None else pytest.approx(expected))
    assert made.token_s(KEY, judged) == (None if expected is None else pytest.approx(expected / 2))
    assert made.first_token_s(("other", "generate"), SHORT, judged) is None


def test_a_few_answers_say_nothing() -> None:
    made = Usual()
    for _ in range(MIN_SAMPLES):
        assert (made.first_token_s(KEY, SHORT, "b"), made.token_s(KEY, "b")) == (None, None)
        made.note(KEY, "a", SHORT, 1.0, None)
        assert made.knows(KEY, "a") and not made.knows(KEY, "b")
    assert (made.first_token_s(KEY, SHORT, "b"), made.token_s(KEY, "b")) == (pytest.approx(1.0), None)


def test_a_few_answers_of_many_workers_say_as_much_as_many_of_one() -> None:
    made = Usual()
    for number in range(MIN_SAMPLES):
        assert made.first_token_s(KEY, SHORT, "judged") is None
        made.note(KEY, str(number), SHORT, 1.0 + number, 1.0 + number)
    assert made.first_token_s(KEY, SHORT, "judged") == pytest.approx(2.0)
    assert made.token_s(KEY, "judged") == pytest.approx(2.0)
    assert made.first_token_s(KEY, SHORT, "0") is None


def test_however_often_one_answers_it_counts_once_and_by_its_last_answers() -> None:
    made = usual(a=1.0, b=2.0, c=3.0)
    for _ in range(1000):
        made.note(KEY, "c", SHORT, 0.001, 0.001)
    assert made.first_token_s(KEY, SHORT, "d") == pytest.approx(1.0)
    for _ in range(SAMPLES):
        made.note(KEY, "c", SHORT, 7.0, 7.0)
    assert made.first_token_s(KEY, SHORT, "d") == pytest.approx(2.0)


@pytest.mark.parametrize("tokens", [1, SHORT])
def test_a_short_prompt_takes_no_less(tokens: int) -> None:
    assert usual(a=1.0).first_token_s(KEY, tokens, "b") == pytest.approx(1.0)


def test_a_long_prompt_may_take_as_much_more_as_it_is_longer() -> None:
    made = usual(a=1.0)
    tokens = 10 * (SHORT + READ_TOGETHER) - READ_TOGETHER
    assert made.first_token_s(KEY, tokens, "b") == pytest.approx(10.0)
    for _ in range(MIN_SAMPLES):  # cached ones among them take nothing of the others away
        made.note(KEY, "a", tokens, 0.1, None)
    assert made.first_token_s(KEY, tokens, "b") == pytest.approx(10.0)


def test_those_that_answered_longest_ago_are_forgotten() -> None:
    made = Usual()
    for number in range(2 * MAX_WORKERS):
        made.note(KEY, str(number), SHORT, 1.0, None)
        made.note(KEY, "often", SHORT, 1.0, None)
    assert made.knows(KEY, "often")
    assert sum(made.knows(KEY, str(number)) for number in range(2 * MAX_WORKERS)) == MAX_WORKERS - 1
    for number in range(2 * MAX_MODELS):
        made.note((f"model-{number}", "generate"), "a", SHORT, 1.0, None)
    assert not made.knows(KEY, "often")
    assert len(made._models) == MAX_MODELS
