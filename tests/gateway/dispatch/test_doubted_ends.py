"""Workers that end answers early, as stories: some are right, and some lie."""

from __future__ import annotations

import pytest

from gateway.dispatch.doubt import ENDED_EARLY, MAX_EXTRA_WORK, MAX_SAVED
from gateway.dispatch.second_opinion import WAIT_S
from gateway.dispatch.usual import MIN_SAMPLES
from gateway.peers.health import MAX_FAILURES_IN_ROW
from p2pnet.messages import Accepted, Event, Failed, Finished, TextDelta, Usage
from p2pnet.network.interface import Stream, StreamHandler
from tests.gateway.story_swarm import ACCEPTED, KEY, PROMPT, Swarm, answers, counted, is_complete, swarm, text_of
from tests.stories import ask

ENDS: dict[str, tuple[Event, ...]] = {
    "stop after nothing": (ACCEPTED, Finished("stop", Usage(3, 0))),
    "stop, said to be at a stop string": (ACCEPTED, Finished("stop", Usage(3, 1), stop="x")),
    "length after nothing": (ACCEPTED, Finished("length", Usage(3, 0))),
    "a filter": (ACCEPTED, Finished("content_filter", Usage(3, 0))),
    "a call that is none": (ACCEPTED, Finished("tool_calls", Usage(3, 0))),
    "an empty token": (ACCEPTED, TextDelta(""), Finished("stop", Usage(3, 1))),
}
EMPTY = answers(*ENDS["stop after nothing"])
CURT = answers(ACCEPTED, TextDelta("one", (0,)), Finished("stop", Usage(3, 1)))


def has_served(given: Swarm, peer_id: str) -> None:
    """It has given whole answers, as quick as any."""
    for _ in range(MIN_SAMPLES):
        given.serving.watch.usual.note(KEY, peer_id, 3, 0.1, 0.01)


@pytest.mark.parametrize("way", ENDS)
async def test_an_empty_answer_of_one_worker_that_another_can_give_is_given(way: str) -> None:
    async with swarm() as given:
        liar = await given.impostor("liar", answers(*ENDS[way]))
        other = await given.worker("other")
        given.prefer(liar)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert other.requests == 1
        [report] = given.reports
        assert [attempt.outcome for attempt in report.attempts] == ["end_doubted", "stop"]


async def test_an_answer_that_a_stranger_cuts_short_is_gone_on_with_by_who_has_served() -> None:
    async with swarm() as given:
        liar = await given.impostor("liar", CURT)
        other = await given.worker("other")
        has_served(given, other.peer_id)
        given.prefer(liar)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert other.begun == [1, 2]


async def test_a_length_that_was_not_reached_is_gone_on_with() -> None:
    async with swarm() as given:
        liar = await given.impostor("liar", answers(ACCEPTED, TextDelta("one", (0,)), Finished("length", Usage(3, 1))))
        await given.worker("other")
        has_served(given, liar)
        given.prefer(liar)
        events, error = await given.run(ask(text=PROMPT, max_tokens=100))
        assert error is None and is_complete(events)


async def test_a_stop_below_the_least_that_was_asked_for_is_gone_on_with() -> None:
    async with swarm() as given:
        liar = await given.impostor("liar", CURT, "min_tokens")
        other = await given.impostor("other", rest_of(PROMPT), "min_tokens")
        has_served(given, liar)
        given.prefer(liar)
        events, error = await given.run(ask(text=PROMPT, min_tokens=3))
        assert error is None and text_of(events) == PROMPT
        assert given.known(other).is_tried


def rest_of(text: str) -> StreamHandler:
    """What is left of it after the first word."""
    _, *words = text.split()
    deltas = [TextDelta(f" {word}", (number,)) for number, word in enumerate(words, 1)]
    return answers(ACCEPTED, *deltas, Finished("stop", Usage(3, 3)))


async def test_two_that_agree_are_believed_and_neither_is_blamed() -> None:
    async with swarm() as given:
        handler, times = counted(EMPTY)
        for name in "abcd":
            await given.impostor(name, handler)
        events, error = await given.run()
        assert (error, [type(event) for event in events]) == (None, [Accepted, Finished])
        assert len(times) == 2
        assert given.cooling() == set()


async def test_a_short_answer_that_was_right_gives_its_worker_standing() -> None:
    async with swarm() as given:
        asked = await given.impostor("asked", answers(ACCEPTED, Finished("stop", Usage(3, 1))))
        stranger = await given.impostor("stranger", CURT)
        has_served(given, asked)
        given.prefer(stranger)
        events, error = await given.run()
        assert error is None and text_of(events) == "one"
        assert given.serving.watch.usual.knows(KEY, stranger)
        given.prefer(stranger)
        await given.run()
        assert len(given.reports[-1].attempts) == 1


async def test_the_end_of_the_only_worker_stands_at_once_and_gives_it_no_standing() -> None:
    async with swarm() as given:
        handler, times = counted(EMPTY)
        only = await given.impostor("only", handler)
        events, error = await given.run()
        assert error is None and [type(event) for event in events] == [Accepted, Finished]
        assert len(times) == 1 and given.now_s == 0.0
        assert not given.serving.watch.usual.knows(KEY, only)
        assert given.known(only).pace(KEY).first_token_s.value is None


@pytest.mark.parametrize(
    "second", [answers(ACCEPTED), answers(Failed("worker_failed")), answers(Failed("invalid_request"))]
)
async def test_the_end_stands_where_whoever_is_asked_fails(second: StreamHandler) -> None:
    async with swarm() as given:
        liar = await given.impostor("first", EMPTY)
        await given.impostor("second", second)
        given.prefer(liar)
        events, error = await given.run()
        assert error is None and isinstance(events[-1], Finished)


async def test_the_end_stands_where_whoever_is_asked_is_busy_for_too_long() -> None:
    async with swarm() as given:
        given.serve(wait_s=60.0)
        liar = await given.impostor("first", EMPTY)

        async def full(stream: Stream) -> None:
            given.now_s += WAIT_S
            await answers(Failed("busy"))(stream)

        await given.impostor("second", full)
        given.prefer(liar)
        events, error = await given.run()
        assert error is None and isinstance(events[-1], Finished)


async def test_who_is_contradicted_again_and_again_is_left_alone() -> None:
    async with swarm() as given:
        handler, times = counted(EMPTY)
        liar = await given.impostor("liar", handler)
        other = await given.worker("other")
        has_served(given, other.peer_id)
        while len(times) < MAX_FAILURES_IN_ROW:
            assert given.cooling() == set()
            given.prefer(liar)
            given.now_s += 1.0
            events, error = await given.run()
            assert error is None and is_complete(events)
        assert given.cooling() == {liar}
        assert given.known(liar).health_of(KEY).reason == ENDED_EARLY


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_one_of_four_that_gives_nothing_costs_no_request_and_draws_few(seed: int) -> None:
    async with swarm() as given:
        given.serve(seed=seed)
        handler, times = counted(EMPTY)
        liar = await given.impostor("liar", handler)
        for name in "abc":
            await given.worker(name)
        given.known(liar).health.has_served = True
        for _ in range(160):
            given.now_s += 0.1
            events, error = await given.run()
            assert error is None and is_complete(events)
        assert 1 <= len(times) <= 160 / 4


async def test_honest_empty_answers_are_not_asked_for_twice_each_time() -> None:
    async with swarm() as given:
        handler, times = counted(EMPTY)
        for name in "ab":
            await given.impostor(name, handler)
        for _ in range(100):
            given.now_s += 1.0
            _, error = await given.run()
            assert error is None
        assert len(times) <= 100 + MAX_SAVED + 100 * MAX_EXTRA_WORK
