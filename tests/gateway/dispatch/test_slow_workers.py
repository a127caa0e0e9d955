"""Workers that stall, as stories: they answer probes, keep to the form and give nothing, or a token now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from gateway.dispatch.hedging import MIN_SAMPLES as HEDGED_AFTER
from gateway.dispatch.lateness import COLD_S, MIN_FIRST_TOKEN_S, READ_S, STRETCH_S
from gateway.dispatch.usual import MIN_SAMPLES
from gateway.dispatch.watch import JUDGE_S
from gateway.peers.health import COOLDOWN_S, MAX_FAILURES_IN_ROW, State
from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import P2PNetError
from p2pnet.messages import Event, GenerateRequest, Load, TextDelta
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.wire.codec import encode_frame, request_decoder
from tests.gateway.story_swarm import ACCEPTED, DELTA, FINISHED, Swarm, answers, is_complete, swarm
from tests.stories import ask, settle

Outcome = tuple[list[Event], P2PNetError | None]
KEY = ("echo", "generate")
MAX_ASKED = 20
REAL_TURNS = 1_000_000
"""Within which a second worker is asked: its delay is of real milliseconds."""

PATIENT = ExchangeTimeouts(accept_s=300, silence_s=300)


async def for_ever() -> None:
    await asyncio.Event().wait()


MUTE: dict[str, StreamHandler] = {
    "not even Accepted": answers(then=for_ever),
    "Accepted and no more": answers(ACCEPTED, then=for_ever),
}


class Story:
    """An honest worker that is known to give answers, and one that is asked first from now on."""

    def __init__(self, given: Swarm) -> None:
        self.given = given

    async def usual(self, answers: int = MIN_SAMPLES) -> None:
        """Those who are there have answered before."""
        for _ in range(answers):
            assert is_complete((await self.given.run())[0])

    async def asked(self, peer_id: str, request: GenerateRequest | None = None) -> asyncio.Task[Outcome]:
        """A request that is under way at this worker: the first that is sent there."""
        for _ in range(MAX_ASKED):
            self.given.prefer(peer_id)
            task = asyncio.create_task(self.given.run(request))
            await turns()
            if self.given.known(peer_id).in_flight:
                return task
            await task
        raise AssertionError("no request was sent there")

    async def after(self, seconds: float) -> None:
        """So much later, looked at as often as a gateway looks."""
        until_s = self.given.now_s + seconds
        while self.given.now_s < until_s:
            self.given.now_s = min(until_s, self.given.now_s + JUDGE_S)
            self.given.serving.watch.look()
            await turns()

    def outcomes(self) -> list[str]:
        return [attempt.outcome for attempt in self.given.reports[-1].attempts]


async def turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def story() -> AsyncIterator[Story]:
    async with swarm() as given:
        given.serve(timeouts=PATIENT)
        yield Story(given)


def drips(gap: Callable[[], Awaitable[object]]) -> StreamHandler:
    """A right token, and the next one whenever there was a gap."""

    async def handle(stream: Stream) -> None:
        decoder = request_decoder()
        while not decoder.feed(await stream.read()):
            pass
        await stream.write(encode_frame(ACCEPTED, 1 << 20))
        for number, text in enumerate(("one", " two", " three")):
            await stream.write(encode_frame(TextDelta(text, (number,)), 1 << 20))
            await gap()

    return handle


# ---- before the first token


@pytest.mark.parametrize("handler", MUTE.values(), ids=MUTE)
async def test_a_first_token_that_is_far_too_late_comes_from_another_worker(handler: StreamHandler) -> None:
    async with story() as told:
        given = told.given
        there = await given.worker("there")
        await told.usual()
        mute = await given.impostor("mute", handler)
        task = await told.asked(mute)
        await told.after(MIN_FIRST_TOKEN_S - JUDGE_S)
        assert not task.done()
        await told.after(3 * JUDGE_S)
        events, error = await task
        assert error is None and is_complete(events)
        assert told.outcomes() == ["too_slow", "stop"]
        assert given.cooling() == {mute} and there.requests == MIN_SAMPLES + 1
        assert given.in_flight() == [0, 0]
        # An answer to a probe does not make it well again.
        given.peers.note_found(given.known(mute))
        assert given.cooling() == {mute}
        assert given.known(mute).health_of(KEY).reason == "too_slow"


async def test_it_is_kept_while_nobody_else_has_room() -> None:
    async with story() as told:
        given = told.given
        there = await given.worker("there", slots=1)
        await told.usual()
        mute = await given.impostor("mute", MUTE["Accepted and no more"])
        there.hold_at = 0
        held = await told.asked(there.peer_id)
        task = await told.asked(mute)
        await told.after(60)
        assert not task.done() and mute not in given.cooling()
        there.gate.set()
        assert is_complete((await held)[0])
        await told.after(2 * JUDGE_S)
        assert is_complete((await task)[0])


async def test_it_is_kept_where_nobody_has_shown_what_is_usual() -> None:
    """A gateway that has just started, and one with a single worker: slow is slow."""
    async with story() as told:
        given = told.given
        await given.worker("other")
        mute = await given.impostor("mute", MUTE["Accepted and no more"])
        task = await told.asked(mute)
        await told.after(60)
        assert not task.done()
        assert given.cooling() == set()
        task.cancel()


@pytest.mark.parametrize("is_alone", [True, False])
async def test_where_no_other_has_answered_a_worker_is_held_to_what_it_was_itself(is_alone: bool) -> None:
    """But there has to be another one."""
    async with story() as told:
        given = told.given
        known = await given.worker("known")
        await told.usual()
        if not is_alone:
            await given.worker("new")
        known.hold_at = 0
        task = await told.asked(known.peer_id)
        await told.after(30)
        assert task.done() is not is_alone
        assert given.cooling() == (set() if is_alone else {known.peer_id})
        known.gate.set()
        assert is_complete((await task)[0])


async def test_a_worker_that_has_said_that_others_wait_there_may_take_longer() -> None:
    async with story() as told:
        given = told.given
        await given.worker("there")
        await told.usual()
        crowded = await given.impostor("crowded", MUTE["Accepted and no more"])
        given.known(crowded).note_load(Load(running=1, queued=2, slots=1), given.now_s)
        task = await told.asked(crowded)
        await told.after(3 * MIN_FIRST_TOKEN_S - JUDGE_S)
        assert not task.done()
        await told.after(3 * JUDGE_S)
        assert is_complete((await task)[0])


async def test_a_long_prompt_may_take_longer() -> None:
    async with story() as told:
        given = told.given
        await given.worker("there")
        await told.usual()
        slow = await given.worker("slow", hold_at=0)
        long = ask(text=" ".join(["one"] * 500))
        read_s = READ_S * 500  # of four characters each, a space among them
        task = await told.asked(slow.peer_id, long)
        await told.after(MIN_FIRST_TOKEN_S + read_s - 2 * JUDGE_S)
        assert not task.done()
        await told.after(4 * JUDGE_S)
        assert (await task)[1] is None and told.outcomes() == ["too_slow", "stop"]


async def test_a_model_that_has_to_be_loaded_may_take_longer() -> None:
    async with story() as told:
        given = told.given
        await given.worker("there")
        await told.usual()
        cold = await given.impostor("cold", MUTE["Accepted and no more"])
        known = given.known(cold)
        cards = tuple(msgspec.structs.replace(card, is_cold=True) for card in known.record.models)
        known.record = msgspec.structs.replace(known.record, models=cards)
        task = await told.asked(cold)
        await told.after(COLD_S - JUDGE_S)
        assert not task.done()
        await told.after(3 * JUDGE_S)
        assert is_complete((await task)[0])


async def test_where_all_are_slow_at_once_a_request_is_not_sent_around() -> None:
    """Each move would only add to what there is to do."""
    async with story() as told:
        given = told.given
        sites = [await given.worker(name) for name in "abcd"]
        await told.usual(40)
        assert all(given.serving.watch.usual.knows(KEY, site.peer_id) for site in sites)
        for site in sites:
            site.hold_at = 0
        task = await told.asked(sites[0].peer_id)
        await told.after(30)
        assert not task.done()
        for site in sites:
            site.gate.set()
        assert is_complete((await task)[0])
        assert 2 <= told.outcomes().count("too_slow") <= 6  # and not every two seconds


# ---- in mid-answer


async def test_a_token_now_and_then_is_no_answer() -> None:
    async with story() as told:
        given = told.given
        there = await given.worker("there")
        await told.usual()
        gaps: list[float] = []

        async def gap() -> None:
            gaps.append(given.now_s)
            await settle(lambda: given.now_s >= gaps[-1] + 9.0, 1 << 20)

        dripping = await given.impostor("dripping", drips(gap))
        begun = len(there.begun)
        task = await told.asked(dripping)
        await told.after(STRETCH_S - JUDGE_S)
        assert not task.done()
        await told.after(3 * JUDGE_S)
        events, error = await task
        assert error is None and is_complete(events)
        assert there.begun[begun:] == [1, 2]
        assert told.outcomes() == ["too_slow", "stop"]
        assert given.cooling() == {dripping}
        assert (given.known(dripping).pace(KEY).token_s.value or 0.0) >= STRETCH_S  # for who chooses the next one


async def test_an_answer_that_nobody_can_go_on_with_exactly_stays() -> None:
    async with story() as told:
        given = told.given
        await given.worker("there")
        await told.usual()
        silent = await given.impostor("silent", answers(ACCEPTED, DELTA, then=for_ever), resumes=False)
        other = await given.impostor(
            "other weights", answers(ACCEPTED, DELTA, then=for_ever), digest="sha256:" + "cd" * 32
        )
        for name in (silent, other):
            task = await told.asked(name)
            await told.after(STRETCH_S + 3)
            assert not task.done()
            task.cancel()


async def test_it_stays_away_for_longer_each_time_and_comes_back_when_it_behaves() -> None:
    async with story() as told:
        given = told.given
        await given.worker("there")
        await told.usual()
        stalls = True

        async def handle(stream: Stream) -> None:
            await (MUTE["Accepted and no more"] if stalls else answers(ACCEPTED, TextDelta("one two three"), FINISHED))(
                stream
            )

        moody = await given.impostor("moody", handle)
        pauses = []
        for _ in range(3):
            task = await told.asked(moody)
            await told.after(MIN_FIRST_TOKEN_S + 2 * JUDGE_S)
            assert is_complete((await task)[0])
            health, began_s = given.known(moody).health_of(KEY), given.now_s
            pauses.append(round(((health.cooling_until_s or 0.0) - began_s) / COOLDOWN_S))
            given.now_s = health.cooling_until_s or 0.0
        assert pauses == [1, 2, 4]
        stalls = False
        given.prefer(moody)
        await given.run()
        assert given.known(moody).health_of(KEY).state(given.now_s) is State.HEALTHY


# ---- lost hedges


async def test_a_first_token_that_another_one_overtakes_counts_when_it_happens_again_and_again() -> None:
    async with story() as told:
        given = told.given
        await given.worker("quick")
        await told.usual(HEDGED_AFTER)
        for _ in range(200):
            given.serving.dispatcher.hedging.note_request()
        late = await given.worker("late", hold_at=0)
        for number in range(1, MAX_FAILURES_IN_ROW + 1):
            given.now_s += 1
            given.prefer(late.peer_id)
            events, error = await given.run()
            assert error is None and is_complete(events)
            assert told.outcomes() == ["cancelled", "stop"]
            assert given.cooling() == ({late.peer_id} if number == MAX_FAILURES_IN_ROW else set())
        assert given.known(late.peer_id).health_of(KEY).reason == "outrun"


async def test_who_never_answers_does_not_say_what_is_late() -> None:
    async with story() as told:
        given = told.given
        await given.worker("quick")
        await told.usual(HEDGED_AFTER)
        hedging = given.serving.dispatcher.hedging
        before_s = hedging.delay_s(KEY)
        mute = await given.impostor("mute", MUTE["Accepted and no more"])
        for _ in range(20):
            hedging.note_request()
        task = await told.asked(mute)
        given.now_s += 100.0
        assert is_complete((await task)[0])
        assert hedging.delay_s(KEY) == before_s


async def test_clients_that_go_while_they_wait_do_not_say_what_is_late() -> None:
    """Given a worker that is known to answer, when many clients ask it and a second one, and leave before either has
    said anything, then first tokens are expected as soon as before, and nobody is in doubt."""
    async with story() as told:
        given = told.given
        sites = [await given.worker("a"), await given.worker("b")]
        await told.usual(HEDGED_AFTER)
        hedging = given.serving.dispatcher.hedging
        before_s = hedging.delay_s(KEY)
        for site in sites:
            site.hold_at = 0
        for _ in range(5):
            for _ in range(HEDGED_AFTER):
                hedging.note_request()
            running = asyncio.create_task(given.run())
            await settle(lambda: all(site.backend.running for site in sites), REAL_TURNS)
            given.now_s += 100.0
            running.cancel()
            await asyncio.wait([running])
        assert hedging.delay_s(KEY) == before_s
        assert [given.known(site.peer_id).health_of(KEY).success_rate for site in sites] in ([1.0, 1.0], [1.0, None])
