"""What is noted of a request while it happens, and the report that becomes of it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.request_trace import RequestTrace
from gateway.interface import Caller, Routed, Waiting
from gateway.observability.reports import CANCELLED, AttemptReport
from gateway.peers.worker import Worker
from gateway.routing.choose import WorkerChoice
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import PeerLost
from p2pnet.messages import Accepted, Finished, TextDelta, TextPrompt, Usage
from tests.stories import ask, capability, peer


class Trip:
    """A trace in a time that passes when a test says so."""

    def __init__(self, is_embed: bool = False) -> None:
        self.now_s = 100.0
        request = EmbedRequest("r", "tiny", (TextPrompt("a"),)) if is_embed else ask("tiny")
        self.trace = RequestTrace(request, Caller("somebody"), lambda: self.now_s, lambda: 5e8)

    def after(self, seconds: float) -> RequestTrace:
        self.now_s += seconds
        return self.trace


def attempt(tokens: int, began_s: float = 100.0) -> AttemptReport:
    return AttemptReport("worker", "best of 2", began_s, "peer_lost", 1.0, tokens=tokens)


def test_an_undisturbed_request() -> None:
    trip = Trip()
    trip.trace.note_event(Waiting(1))
    trip.after(2).note_queued(2)
    trip.after(1).note_event(Accepted(5))
    trip.trace.note_event(TextDelta("a", (0,)))
    trip.after(1).note_event(TextDelta("b", (1,)))
    trip.trace.note_attempt(attempt(2, began_s=102.0), choice=1)
    trip.trace.note_event(Finished("stop", Usage(6, 3, 4)))
    report = trip.after(1).report(None)
    assert (report.request_id, report.model, report.task, report.caller) == (
        "request-1",
        "tiny",
        "generate",
        "somebody",
    )
    assert (report.arrived_unix_s, report.outcome, report.gap_s) == (5e8, "stop", None)
    assert (report.queued_s, report.first_token_s, report.duration_s) == (2, 3, 5)
    assert (report.prompt_tokens, report.completion_tokens, report.cached_tokens) == (6, 3, 4)
    assert [(each.began_s, each.choice) for each in report.attempts] == [(2.0, 1)]


def test_the_gap_is_the_longest_silence_that_the_client_saw_because_of_a_change() -> None:
    trip = Trip()
    trip.trace.note_broken()  # before the first token there is no gap
    trip.after(9).note_event(TextDelta("a"))
    assert trip.trace.gap_s is None
    trip.after(3).note_event(TextDelta("slow, and nobody changed"))
    for silence_s, wait_s, gap_s in ((1, 1, 2), (0, 0.5, 2), (2, 1, 3)):
        trip.after(silence_s).note_broken()
        trip.trace.note_broken()
        trip.trace.note_queued(wait_s)
        trip.after(wait_s).note_event(TextDelta("b"))
        assert trip.trace.gap_s == gap_s
    assert trip.trace.queued_s == 0
    assert trip.trace.report(None).first_token_s == 9


@pytest.mark.parametrize(
    ("finished", "error", "outcome"),
    [
        (True, None, "stop"),
        (True, GeneratorExit(), "stop"),
        (False, None, CANCELLED),
        (False, GeneratorExit(), CANCELLED),
        (False, asyncio.CancelledError(), CANCELLED),
        (False, PeerLost(), "peer_lost"),
        (False, ZeroDivisionError(), "internal"),
    ],
)
def test_how_it_ended(finished: bool, error: BaseException | None, outcome: str) -> None:
    trace = Trip().trace
    trace.note_event(Accepted(5))
    trace.note_attempt(attempt(2))
    trace.note_attempt(attempt(3))
    if finished:
        trace.note_event(Finished("stop", Usage(5, 4)))
    report = trace.report(error)
    assert report.outcome == outcome
    assert (report.prompt_tokens, report.completion_tokens) == (5, 4 if finished else 5)


def test_vectors_are_a_task_of_their_own() -> None:
    trip = Trip(is_embed=True)
    trip.after(1).note_event(Embedding(0, b"1234"))
    report = trip.trace.report(None)
    assert (report.task, report.first_token_s) == ("embed", 1)


def test_the_client_is_told_who_answers_and_what_it_took() -> None:
    trip = Trip()
    worker = Worker(capability(peer("a"), "tiny"))
    trip.trace.note_queued(1.2346)
    trip.trace.note_attempt(attempt(0))
    running = Attempt(WorkerChoice(worker, "best of 1"), ("tiny", "generate"), 100.0, lambda: 100.0)
    assert trip.trace.routed(running) == Routed(worker.peer_id, 2, 1235)
