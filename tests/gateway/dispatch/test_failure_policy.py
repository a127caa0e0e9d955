"""When another try is no use, and what the client is told then."""

from __future__ import annotations

import pytest

from gateway.dispatch.failure_policy import MAX_BREAKS, MAX_FAILURES, MAX_WORKER_FAILURES, FailurePolicy
from p2pnet.errors import (
    Busy,
    ContextOverflow,
    DeadlineExceeded,
    Draining,
    FeatureMissing,
    InvalidRequest,
    ModelNotFound,
    NotAllowed,
    NoWorker,
    P2PNetError,
    PeerLost,
    PeerUnreachable,
    ProtocolViolation,
    TooSlow,
    WorkerFailed,
    from_wire,
)

FEATURE, MODEL = FeatureMissing("no tools", "tools"), ModelNotFound("not here", "model")


def policy(*errors: P2PNetError, has_begun: bool = False) -> FailurePolicy:
    noted = FailurePolicy("tiny")
    for error in errors:
        noted.note(error, has_begun)
    return noted


@pytest.mark.parametrize("error", [InvalidRequest("no such role"), ContextOverflow("too long")])
def test_what_is_wrong_with_a_request_is_final_until_somebody_understood_it(error: P2PNetError) -> None:
    with pytest.raises(type(error)):
        policy(error)
    assert type(policy(error, has_begun=True).verdict()) is NoWorker


REFUSALS = [from_wire("invalid_request", "no such role"), from_wire("context_length_exceeded", "too long")]


@pytest.mark.parametrize("first", REFUSALS)
@pytest.mark.parametrize("second", REFUSALS)
def test_what_one_worker_says_is_wrong_with_a_request_is_final_when_a_second_one_says_so(
    first: P2PNetError, second: P2PNetError
) -> None:
    noted = policy(first, PeerLost(), Busy())
    assert noted.refusal is first
    with pytest.raises(type(second)):
        noted.note(second, False)


@pytest.mark.parametrize("waited", [None, NoWorker("nobody came"), DeadlineExceeded("all busy"), Busy("all of them")])
@pytest.mark.parametrize("others", [(), (Busy(),), (PeerLost(), FEATURE), (WorkerFailed(),)])
def test_where_no_second_one_says_anything_the_word_of_the_first_stands(
    others: tuple[P2PNetError, ...], waited: P2PNetError | None
) -> None:
    assert policy(REFUSALS[0], *others).verdict(waited) is REFUSALS[0]


def test_a_refusal_in_mid_answer_is_a_failure_as_any_other() -> None:
    noted = policy(*REFUSALS * 3, has_begun=True)
    assert noted.refusal is None
    assert type(noted.verdict()) is NoWorker


@pytest.mark.parametrize(
    "error", [PeerLost(), TooSlow(), PeerUnreachable(), ProtocolViolation(), Draining(), NotAllowed(), FEATURE, MODEL]
)
@pytest.mark.parametrize("has_begun", [False, True])
def test_so_many_may_fail_in_a_row_and_no_more(error: P2PNetError, has_begun: bool) -> None:
    noted = policy(*[error] * (MAX_FAILURES - 1), has_begun=has_begun)
    with pytest.raises(P2PNetError):
        noted.note(error, has_begun)


def test_an_answer_may_break_off_so_often_and_no_more_whatever_came_between() -> None:
    noted = FailurePolicy("tiny")
    for _ in range(MAX_BREAKS - 1):
        noted.note_moved()
        noted.note(WorkerFailed("again"), True)
    with pytest.raises(NoWorker, match=f"{MAX_BREAKS} times"):
        noted.note_moved()


def test_what_went_wrong_before_an_answer_moved_on_is_forgotten() -> None:
    noted = policy(WorkerFailed(), WorkerFailed(), Busy())
    noted.note_moved()
    noted.note(WorkerFailed(), True)
    noted.note(WorkerFailed(), True)
    assert "(worker_failed)" in noted.verdict().message


def test_a_busy_worker_has_not_failed() -> None:
    assert type(policy(*[Busy()] * 100).verdict()) is Busy


@pytest.mark.parametrize("between", [(), (Busy(),)])
def test_a_request_that_workers_fail_at_is_at_fault_itself(between: tuple[P2PNetError, ...]) -> None:
    failures = (WorkerFailed("out of memory"), *between) * (MAX_WORKER_FAILURES - 1)
    with pytest.raises(WorkerFailed, match="out of memory"):
        policy(*failures, WorkerFailed("out of memory"))
    policy(*failures, PeerLost(), *failures)


@pytest.mark.parametrize(
    ("errors", "has_begun", "waited", "told"),
    [
        ((), False, None, Busy),
        ((), False, NoWorker("nobody came"), NoWorker),
        ((Busy(),), False, NoWorker("nobody came"), NoWorker),
        ((Busy(), PeerLost()), False, None, Busy),
        ((MODEL, MODEL), False, NoWorker("nobody came"), ModelNotFound),
        ((MODEL, Busy()), False, None, ModelNotFound),
        ((FEATURE, MODEL), False, NoWorker("nobody came"), FeatureMissing),
        ((MODEL, FEATURE), False, None, FeatureMissing),
        ((FEATURE, Busy()), False, None, Busy),
        ((FEATURE, PeerLost()), False, None, NoWorker),
        ((MODEL, PeerLost()), False, None, NoWorker),
        ((PeerLost(),), False, Busy("all of them"), NoWorker),
        ((), False, DeadlineExceeded("all busy"), DeadlineExceeded),
        ((Busy(), PeerLost()), False, DeadlineExceeded("all busy"), DeadlineExceeded),
        ((PeerLost(),), True, DeadlineExceeded("nobody came"), DeadlineExceeded),
        ((FEATURE, MODEL), False, DeadlineExceeded("nobody came"), FeatureMissing),
        ((MODEL, MODEL), False, DeadlineExceeded("nobody came"), ModelNotFound),
        ((MODEL, MODEL), True, None, NoWorker),
        ((FEATURE, MODEL), True, None, NoWorker),
        ((FEATURE, Busy()), True, None, Busy),
        ((InvalidRequest("no such tokens"),), True, None, NoWorker),
    ],
)
def test_what_the_client_is_told(
    errors: tuple[P2PNetError, ...], has_begun: bool, waited: P2PNetError | None, told: type[P2PNetError]
) -> None:
    verdict = policy(*errors, has_begun=has_begun).verdict(waited)
    assert type(verdict) is told


def test_the_verdict_names_what_went_wrong() -> None:
    message = policy(PeerLost("10.0.0.1"), Draining(), PeerLost()).verdict().message
    assert "(draining, peer_lost)" in message
    assert "10.0.0.1" not in message
    in_vain = policy(PeerLost(), Draining()).verdict(DeadlineExceeded("nobody came", 3.0))
    assert isinstance(in_vain, DeadlineExceeded) and in_vain.retry_after_s == 3.0
    assert "(draining, peer_lost)" in in_vain.message
