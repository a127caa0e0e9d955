"""The state table of an exchange, whole: each state with each event, and with the stream's end."""

from __future__ import annotations

import itertools

import pytest

from p2pnet.embed_messages import Embedding
from p2pnet.errors import PeerLost, ProtocolViolation
from p2pnet.messages import Accepted, Event, Failed, Finished, TextDelta, Usage
from p2pnet.score_messages import Scored
from p2pnet.status_messages import Status
from p2pnet.wire.exchange import (
    EMBED_TRANSITIONS,
    SCORE_TRANSITIONS,
    STATUS_TRANSITIONS,
    TRANSITIONS,
    Exchange,
    State,
    Transitions,
)

ACCEPTED = Accepted(3)
DELTA = TextDelta("a", (1,))
FINISHED = Finished("stop", Usage(3, 1))
FAILED = Failed("busy")
SCORED = Scored.of((0.0,))
EVENTS: tuple[Event | Scored, ...] = (ACCEPTED, SCORED, DELTA, FINISHED, FAILED)

WAY_TO: dict[State, tuple[Event, ...]] = {
    State.WAITING: (),
    State.STREAMING: (ACCEPTED,),
    State.DONE: (ACCEPTED, FINISHED),
}

TABLE: list[tuple[State, Event | Scored, State | None]] = [
    (State.WAITING, ACCEPTED, State.STREAMING),
    (State.WAITING, SCORED, None),
    (State.WAITING, DELTA, None),
    (State.WAITING, FINISHED, None),
    (State.WAITING, FAILED, State.DONE),
    (State.STREAMING, ACCEPTED, None),
    (State.STREAMING, SCORED, State.STREAMING),
    (State.STREAMING, DELTA, State.STREAMING),
    (State.STREAMING, FINISHED, State.DONE),
    (State.STREAMING, FAILED, State.DONE),
    (State.DONE, ACCEPTED, None),
    (State.DONE, SCORED, None),
    (State.DONE, DELTA, None),
    (State.DONE, FINISHED, None),
    (State.DONE, FAILED, None),
]


def exchange_in(state: State) -> Exchange:
    exchange = Exchange()
    for event in WAY_TO[state]:
        exchange.advance(event)
    assert exchange.state is state
    return exchange


def test_the_table_is_complete() -> None:
    assert {(state, type(event)) for state, event, _ in TABLE} == set(itertools.product(State, map(type, EVENTS)))
    assert {(state, type(event)): following for state, event, following in TABLE if following} == TRANSITIONS


@pytest.mark.parametrize(
    ("transitions", "event"), [(EMBED_TRANSITIONS, Embedding(0, bytes(4))), (SCORE_TRANSITIONS, SCORED)]
)
def test_vectors_and_scores_stand_where_text_stands(transitions: Transitions, event: Embedding | Scored) -> None:
    exchange = Exchange(transitions)
    for following in (ACCEPTED, event, event):
        exchange.advance(following)
    with pytest.raises(ProtocolViolation, match="TextDelta in state STREAMING"):
        exchange.advance(DELTA)
    exchange.advance(FINISHED)
    assert exchange.is_done


def test_no_vector_stands_in_an_answer() -> None:
    for transitions in (TRANSITIONS, SCORE_TRANSITIONS):
        exchange = Exchange(transitions)
        exchange.advance(ACCEPTED)
        with pytest.raises(ProtocolViolation, match="Embedding in state STREAMING"):
            exchange.advance(Embedding(0, bytes(4)))


@pytest.mark.parametrize("event", [Status(True), FAILED])
def test_a_status_exchange_is_one_event(event: Status | Failed) -> None:
    exchange = Exchange(STATUS_TRANSITIONS)
    for other in (ACCEPTED, DELTA, FINISHED):
        with pytest.raises(ProtocolViolation, match="in state WAITING"):
            exchange.advance(other)
    with pytest.raises(PeerLost, match="no answer"):
        exchange.end_of_stream()
    exchange.advance(event)
    assert exchange.is_done
    exchange.end_of_stream()
    for other in (Status(True), FAILED):
        with pytest.raises(ProtocolViolation, match="in state DONE"):
            exchange.advance(other)
    with pytest.raises(ProtocolViolation, match="Status in state WAITING"):
        Exchange().advance(Status(True))


@pytest.mark.parametrize(("state", "event", "following"), TABLE)
def test_each_state_takes_each_event_as_the_table_says(
    state: State, event: Event | Scored, following: State | None
) -> None:
    exchange = exchange_in(state)
    if following is None:
        with pytest.raises(ProtocolViolation, match=f"{type(event).__name__} in state {state.name}"):
            exchange.advance(event)
        assert exchange.state is state
    else:
        exchange.advance(event)
        assert exchange.state is following
    assert exchange.is_done is (exchange.state is State.DONE)


@pytest.mark.parametrize(
    ("state", "reason"), [(State.WAITING, "no answer"), (State.STREAMING, "mid-answer"), (State.DONE, None)]
)
def test_a_stream_that_ends_before_it_is_done_is_lost(state: State, reason: str | None) -> None:
    exchange = exchange_in(state)
    if reason is None:
        exchange.end_of_stream()
    else:
        with pytest.raises(PeerLost, match=reason):
            exchange.end_of_stream()


@pytest.mark.parametrize(
    "events",
    [
        (ACCEPTED, FINISHED),
        (ACCEPTED, DELTA, DELTA, DELTA, FINISHED),
        (ACCEPTED, DELTA, FAILED),
        (ACCEPTED, FAILED),
        (FAILED,),
    ],
)
def test_whole_exchanges(events: tuple[Event, ...]) -> None:
    exchange = Exchange()
    for event in events:
        assert not exchange.is_done
        exchange.advance(event)
    assert exchange.is_done
    exchange.end_of_stream()
