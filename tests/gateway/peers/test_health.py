"""The circuit breaker, as stories in one table: what happened when, and what the worker is then."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.peers.health import (
    COOLDOWN_S,
    FORGIVEN_S,
    MAX_COOLDOWN_S,
    MAX_FAILURES_IN_ROW,
    MIN_RECENT,
    RECENT,
    TRIAL_S,
    Health,
    ModelHealth,
    State,
)

HEALTHY, COOLING, TRIAL = State.HEALTHY, State.COOLING, State.TRIAL
C, F = COOLDOWN_S, FORGIVEN_S

Happening = Callable[[Health, float], None]


def lost(health: Health, now_s: float) -> None:
    health.note_failure(now_s, "peer_lost")


def violated(health: Health, now_s: float) -> None:
    health.note_failure(now_s, "protocol_violation")


def failed(health: Health, now_s: float) -> None:
    health.note_failure(now_s, "worker_failed", is_gone=False)


def served(health: Health, now_s: float) -> None:
    health.note_success()


def started(health: Health, now_s: float) -> None:
    health.note_start(now_s)


def begun(health: Health, now_s: float) -> None:
    """Half a second after it was asked for."""
    health.note_begun(now_s, now_s - 0.5)


def released(health: Health, now_s: float) -> None:
    health.note_release(now_s)


def released_from_before(health: Health, now_s: float) -> None:
    """A request that was sent before anything else happened."""
    health.note_release(-1.0)


def announced(health: Health, now_s: float) -> None:
    health.note_announced(now_s)


def answered(health: Health, now_s: float) -> None:
    """A probe."""
    health.note_answered(now_s)


def unanswered(health: Health, now_s: float) -> None:
    """A probe."""
    health.note_unanswered(now_s)


STORIES: list[tuple[str, list[tuple[float, Happening]], float, State, bool]] = [
    ("nothing", [], 0, HEALTHY, True),
    ("a success", [(0, served)], 0, HEALTHY, True),
    ("gone", [(0, lost)], C - 0.01, COOLING, False),
    ("gone, and its time is over", [(0, lost)], C, TRIAL, True),
    ("one trial at a time", [(0, lost), (C, started)], C, TRIAL, False),
    ("a trial that takes for ever", [(0, lost), (C, started)], C + TRIAL_S, TRIAL, True),
    ("a trial that said nothing", [(0, lost), (C, started), (C, released)], C, TRIAL, True),
    (
        "a trial, and an older request says nothing",
        [(0, lost), (C, started), (C, released_from_before)],
        C,
        TRIAL,
        False,
    ),
    ("a trial that has begun to answer", [(0, lost), (C, started), (C + 1, begun)], C + 1, HEALTHY, True),
    ("it breaks off", [(0, lost), (C, started), (C, begun), (C, lost)], 3 * C - 0.01, COOLING, False),
    ("it breaks off, and its time is over", [(0, lost), (C, started), (C, begun), (C, lost)], 3 * C, TRIAL, True),
    ("it goes on for a while before it does", [(0, lost), (C, begun), (C + F, lost)], 2 * C + F, TRIAL, True),
    ("not for long enough", [(0, lost), (C, begun), (C + F - 0.01, lost)], 2 * C + F, COOLING, False),
    (
        "one failure is forgiven at a time",
        [(0, lost), (C, begun), (C + 1, lost), (3 * C + 1, begun), (3 * C + 1 + F, lost)],
        5 * C + F,
        COOLING,
        False,
    ),
    ("an answer from before begins while it cools", [(0, lost), (0.5, begun)], C - 0.01, COOLING, False),
    ("one from after it", [(0, lost), (0.1, started), (0.7, begun)], 0.7, HEALTHY, True),
    ("one from before the last failure", [(0, lost), (1, lost), (1.2, begun)], 1.2, COOLING, False),
    ("it broke the protocol, and breaks off again", [(0, violated), (1, begun), (1, lost)], 2 * C, COOLING, False),
    ("an answer begins", [(0, begun)], 0, HEALTHY, True),
    ("a trial that succeeds", [(0, lost), (C, started), (C + 1, served)], C + 1, HEALTHY, True),
    ("a trial that fails", [(0, lost), (C, started), (C, lost)], 3 * C - 0.01, COOLING, False),
    ("a trial that fails, and its time is over", [(0, lost), (C, started), (C, lost)], 3 * C, TRIAL, True),
    ("a trial that the worker says it failed at", [(0, lost), (C, started), (C, failed)], 3 * C - 0.01, COOLING, False),
    ("failures together count once", [(0, lost), *[(1.0, lost)] * 50], C, TRIAL, True),
    ("a success of one that was under way", [(0, lost), (1, served)], 1, HEALTHY, True),
    ("a start while it is well", [(0, started)], 0, HEALTHY, True),
    ("asked though it cools", [(0, lost), (1, started)], C, TRIAL, False),
    ("it announces itself", [(0, lost), (1, announced)], 1, TRIAL, True),
    ("it announces itself while a trial is under way", [(0, lost), (C, started), (C, announced)], C, TRIAL, False),
    ("it answers a probe", [(0, lost), (1, answered)], 1, HEALTHY, True),
    ("it answers a probe while a trial is under way", [(0, lost), (C, started), (C, answered)], C, HEALTHY, True),
    ("it runs and loses again", [(0, lost), (1, announced), (1, lost), (2, announced)], 2, COOLING, False),
    ("it is there and loses again", [(0, lost), (1, answered), (1, lost), (2, answered)], 2, COOLING, False),
    ("the same much later", [(0, lost), (1, answered), (1, lost)], 1 + 2 * C, TRIAL, True),
    ("it loses again much later", [(0, lost), (1, answered), (F + 1, lost), (F + 2, answered)], F + 2, HEALTHY, True),
    ("it does not answer a probe", [(0, unanswered)], C - 0.01, COOLING, False),
    ("it does not answer one, and its time is over", [(0, unanswered)], C, TRIAL, True),
    ("it stays away", [(0, lost), (1, announced), (2, unanswered)], 2 + C - 0.01, COOLING, False),
    ("and is back", [(0, lost), (1, announced), (2, unanswered), (3, answered)], 3, HEALTHY, True),
    ("it loses again and stays away", [(0, lost), (C, lost), (3 * C, unanswered)], 7 * C - 0.01, COOLING, False),
    ("it is there and breaks the protocol", [(0, violated), (1, answered)], 1, COOLING, False),
    ("it runs and breaks the protocol", [(0, violated), (1, announced)], 1, COOLING, False),
    ("it is there and well", [(0, answered)], 0, HEALTHY, True),
    ("it runs and is well", [(0, announced)], 0, HEALTHY, True),
    ("it says that it failed, once", [(0, failed)], 0, HEALTHY, True),
    ("almost in a row", [(0, failed)] * (MAX_FAILURES_IN_ROW - 1), 0, HEALTHY, True),
    ("in a row", [(0, failed)] * MAX_FAILURES_IN_ROW, 0, COOLING, False),
    ("with a success between", [*[(0.0, failed)] * 2, (0, served), *[(0.0, failed)] * 2], 0, HEALTHY, True),
    ("every other one", [(0, served), (0, failed)] * (MIN_RECENT // 2), 0, COOLING, False),
    ("every third one", [(0, served), (0, served), (0, failed)] * RECENT, 0, HEALTHY, True),
    ("failures of long ago", [*[(0.0, lost)], *[(9.0, served)] * RECENT, (9, failed)], 9, HEALTHY, True),
]


@pytest.mark.parametrize(("story", "now_s", "state", "may_take"), [s[1:] for s in STORIES], ids=[s[0] for s in STORIES])
def test_what_happened_says_what_it_is(
    story: list[tuple[float, Happening]], now_s: float, state: State, may_take: bool
) -> None:
    health = Health()
    for moment_s, happening in story:
        happening(health, moment_s)
    assert (health.state(now_s), health.may_take(now_s)) == (state, may_take)


def test_each_failure_cools_for_twice_as_long_up_to_a_limit_and_a_success_ends_that() -> None:
    health, now_s = Health(), 0.0
    pauses = []
    for _ in range(3000):
        lost(health, now_s)
        assert health.cooling_until_s is not None
        pauses.append(health.cooling_until_s - now_s)
        now_s = health.cooling_until_s
    assert pauses[:6] == [C, 2 * C, 4 * C, 8 * C, 16 * C, MAX_COOLDOWN_S]
    assert set(pauses[5:]) == {MAX_COOLDOWN_S}
    health.note_success()
    lost(health, now_s)
    assert health.cooling_until_s == now_s + C


def test_it_says_why_it_cools_until_it_is_well() -> None:
    health = Health()
    assert (health.reason, health.success_rate) == (None, None)
    health.note_failure(0.0, "peer_lost")
    health.note_failure(0.5, "no_answer")
    assert (health.reason, health.success_rate) == ("peer_lost", 0.0)
    health.note_failure(C, "worker_failed", is_gone=False)
    assert health.reason == "worker_failed"
    health.note_success()
    assert health.reason is None
    assert health.success_rate == 0.25


HAPPENINGS = st.sampled_from(
    [lost, violated, failed, served, started, begun, released, announced, answered, unanswered]
)


@given(st.lists(st.tuples(st.floats(0, 5), HAPPENINGS), max_size=60))
def test_whatever_happens_it_may_be_tried_again_within_a_minute_or_two(story: list[tuple[float, Happening]]) -> None:
    health, now_s = Health(), 0.0
    for passed_s, happening in story:
        now_s += passed_s
        happening(health, now_s)
        assert health.may_take(now_s) <= (health.state(now_s) is not COOLING)
    assert health.may_take(now_s + MAX_COOLDOWN_S + TRIAL_S)


OF_MODELS: list[tuple[str, Callable[[ModelHealth], None], State, State]] = [
    ("it is gone", lambda one: one.note_failure(0.0, "peer_lost"), COOLING, COOLING),
    ("it cannot be reached", lambda one: one.note_failure(0.0, "peer_unreachable"), COOLING, COOLING),
    ("it breaks off, and is there", lambda one: one.note_failure(0.0, "peer_lost", is_there=True), COOLING, HEALTHY),
    ("it breaks the protocol", lambda one: one.note_failure(0.0, "protocol_violation"), COOLING, HEALTHY),
    ("it is too slow", lambda one: one.note_failure(0.0, "too_slow"), COOLING, HEALTHY),
    ("it says that it failed", lambda one: one.note_failure(0.0, "worker_failed", False), HEALTHY, HEALTHY),
    ("it says so often", lambda one: [one.note_failure(0.0, "worker_failed", False) for _ in "abc"], COOLING, HEALTHY),
]


@pytest.mark.parametrize(
    ("what", "one_state", "other_state"), [c[1:] for c in OF_MODELS], ids=[c[0] for c in OF_MODELS]
)
def test_only_what_says_that_a_worker_is_gone_counts_for_all_its_models(
    what: Callable[[ModelHealth], None], one_state: State, other_state: State
) -> None:
    worker = Health()
    one, other = ModelHealth(worker), ModelHealth(worker)
    what(one)
    assert (one.state(0.0), other.state(0.0)) == (one_state, other_state)
    assert (one.may_take(0.0), other.may_take(0.0)) == (one_state is HEALTHY, other_state is HEALTHY)
    assert (one.cooling_until_s, one.reason is None) == ((None, True) if one_state is HEALTHY else (C, False))


def test_a_model_that_serves_ends_the_trouble_of_its_worker_and_of_no_other_model() -> None:
    worker = Health()
    one, other = ModelHealth(worker), ModelHealth(worker)
    other.note_failure(0.0, "protocol_violation")
    one.note_failure(0.0, "peer_lost")
    assert (one.state(C), other.state(C)) == (TRIAL, TRIAL)
    one.note_start(C)
    assert not other.may_take(C), "one request at a time shows whether it is back"
    one.note_success()
    assert (one.state(C), other.state(C), other.may_take(C)) == (HEALTHY, TRIAL, True)


@pytest.mark.parametrize(
    ("asked_s", "has_ended"), [(C - 1, False), (C, True)], ids=["of another request", "of the one on trial"]
)
@pytest.mark.parametrize(("first", "then"), [("peer_lost", "protocol_violation"), ("protocol_violation", "peer_lost")])
def test_a_trial_is_ended_by_its_own_request_alone(first: str, then: str, asked_s: float, has_ended: bool) -> None:
    """A failure of the worker says nothing of the model, nor one of the model of the worker."""
    worker = Health()
    health = ModelHealth(worker)
    health.note_failure(0.0, first)
    health.note_start(C)
    health.note_failure(C + 1, then, asked_s=asked_s)
    on_trial = worker if first == "peer_lost" else health._own
    assert on_trial.state(C + 1) is TRIAL
    assert on_trial.may_take(C + 1) is has_ended


def test_one_doubt_says_nothing_and_several_in_a_row_are_a_failure() -> None:
    health = Health()
    for now_s in range(MAX_FAILURES_IN_ROW - 1):
        health.note_doubt(float(now_s), "outrun", asked_s=now_s - 0.5)
        assert health.state(now_s) is HEALTHY
    health.note_doubt(10.0, "outrun", asked_s=9.5)
    assert (health.state(10.0), health.reason) == (COOLING, "outrun")
    health.note_answered(10.1)  # a probe says nothing of it
    assert health.state(10.1) is COOLING
    assert health.state(10.0 + C) is TRIAL


def test_doubts_of_requests_that_were_under_way_together_count_once() -> None:
    health = Health()
    for number in range(100):
        health.note_doubt(10.0 + number / 100, "outrun", asked_s=9.0)
    assert health.state(11.0) is HEALTHY
    assert health.success_rate == 0.0


def test_doubts_between_answers_say_nothing() -> None:
    health = Health()
    for now_s in range(1000):
        health.note_success()
        health.note_success()
        health.note_doubt(float(now_s), "outrun", asked_s=now_s - 0.5)
        assert health.state(now_s) is HEALTHY


def test_a_doubt_ends_a_trial() -> None:
    health = Health()
    lost(health, 0.0)
    started(health, C)
    health.note_doubt(C + 1, "outrun", asked_s=C)
    assert health.state(C + 1 + 2 * C - 0.1) is COOLING
