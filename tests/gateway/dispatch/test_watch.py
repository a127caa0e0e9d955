"""The watch: who is silent is asked, who does not answer is cut, who answers and sends nothing is given up later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from gateway.dispatch.attempt import STAYS, Attempt, Terms
from gateway.dispatch.lateness import MIN_FIRST_TOKEN_S, STRETCH_S, UNASKED_S
from gateway.dispatch.silence import (
    FIRST_SUSPICION_S,
    MIN_GIVE_UP_S,
    MIN_SAMPLES,
    MIN_SUSPICION_S,
    SUSPICION,
    UNKNOWN_GIVE_UP_S,
)
from gateway.dispatch.usual import MIN_SAMPLES as USUAL_AFTER
from gateway.dispatch.watch import JUDGE_S, LATE_PART, MAX_LAG_S, TICK_S, Watch
from gateway.peers.health import LATE_S
from gateway.peers.worker import Worker
from gateway.routing.choose import WorkerChoice
from p2pnet.errors import PeerLost, TooSlow
from p2pnet.messages import Accepted, Finished, TextDelta
from p2pnet.records import ModelTask
from tests.stories import capability, card, peer, settle

KEY = ("tiny", "generate")
EMBED = ("tiny", "embed")
MOVES = Terms(has_elsewhere=lambda: True)
LIMIT_S = 60.0
GAP_S = 0.05
"""How far apart the frames of these workers usually are."""

AnyEvent = Accepted | TextDelta | Finished


class Site:
    """A watch over answers of workers that are silent, and what it does about them."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.watch = Watch(self.check, self.lose, LIMIT_S, lambda: self.now_s)
        self.checks: list[tuple[str, asyncio.Future[bool]]] = []
        self.lost: list[str] = []
        self._ticked = asyncio.Event()
        self.watching: asyncio.Task[None]
        self.running: list[asyncio.Task[AnyEvent | None]] = []

    async def check(self, worker: Worker) -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.checks.append((worker.peer_id, answer))
        return await answer

    def lose(self, worker: Worker) -> None:
        self.lost.append(worker.peer_id)

    def worker(self, name: str = "a", samples: int = MIN_SAMPLES) -> Worker:
        """One whose gaps are known."""
        worker = Worker(capability(peer(name), "tiny"))
        worker.heard_s = self.now_s
        for _ in range(samples):
            worker.pace(KEY).gaps_s.note(GAP_S)
        return worker

    async def answer(
        self, worker: Worker, has_token: bool = True, terms: Terms = STAYS, key: ModelTask = KEY
    ) -> asyncio.Task[AnyEvent | None]:
        """An answer under way whose next event does not come."""
        worker.reserve(key, self.now_s)
        attempt = Attempt(WorkerChoice(worker, "best of 1"), key, self.now_s, lambda: self.now_s, terms=terms)
        attempt.first_token_s = 0.1 if has_token else None
        self.watch.add(attempt)
        self.running.append(asyncio.create_task(attempt.next(never())))
        await settle(lambda: attempt.waits_since_s is not None)
        return self.running[-1]

    def usually(self, seconds: float, key: ModelTask = KEY) -> None:
        """Another worker takes so long for a first token, and for the next."""
        for _ in range(USUAL_AFTER):
            self.watch.usual.note(key, "another", 1, seconds, seconds)

    async def after(self, seconds: float) -> None:
        self.now_s += seconds
        self.watch.look()
        await turn()

    async def sleep(self, seconds: float) -> None:
        """Until the next `tick`."""
        self._ticked.clear()
        await self._ticked.wait()

    async def tick(self, seconds: float = TICK_S) -> None:
        """The watch wakes up after so long."""
        self.now_s += seconds
        self._ticked.set()
        await turn()

    async def say(self, is_there: bool) -> None:
        """What the last check finds."""
        self.checks[-1][1].set_result(is_there)
        await turn()


async def never() -> AsyncGenerator[AnyEvent, None]:
    await asyncio.Event().wait()
    yield Accepted(1)


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    given = Site()
    try:
        yield given
    finally:
        tasks = [*given.running, *given.watch._checks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def watched() -> AsyncIterator[Site]:
    """The same, with the watch running."""
    async with site() as given:
        given.watching = asyncio.create_task(given.watch.run(given.sleep))
        await turn()
        yield given
        given.watching.cancel()
        await asyncio.wait([given.watching])


def is_lost(task: asyncio.Task[AnyEvent | None]) -> bool:
    return task.done() and isinstance(task.exception(), PeerLost)


async def test_who_is_silent_for_long_by_its_own_gaps_is_asked_and_cut_when_it_does_not_answer() -> None:
    async with site() as given:
        dead, alive = given.worker("dead"), given.worker("alive")
        first, second, other = [await given.answer(worker) for worker in (dead, dead, alive)]
        await given.after(MIN_SUSPICION_S - 0.01)
        assert given.checks == []
        alive.heard_s = given.now_s
        await given.after(0.02)
        assert [peer_id for peer_id, _ in given.checks] == [dead.peer_id]
        await given.say(False)
        assert given.lost == [dead.peer_id]
        assert is_lost(first) and is_lost(second) and not other.done()


async def test_a_slow_worker_is_left_in_peace() -> None:
    async with site() as given:
        slow = given.worker(samples=0)
        for _ in range(50):
            slow.pace(KEY).gaps_s.note(2.0)
        await given.answer(slow)
        await given.after(SUSPICION * 2.0 - 0.1)
        assert given.checks == []
        await given.after(0.2)
        assert len(given.checks) == 1


@pytest.mark.parametrize("has_token", [False, True])
async def test_of_who_is_not_known_yet_more_is_borne(has_token: bool) -> None:
    async with site() as given:
        await given.answer(given.worker(samples=0), has_token)
        await given.after(FIRST_SUSPICION_S - 0.01)
        assert given.checks == []
        await given.after(0.02)
        assert len(given.checks) == 1


async def test_nobody_is_asked_twice_at_once_nor_again_right_after_it_answered() -> None:
    async with site() as given:
        worker = given.worker()
        tasks = [await given.answer(worker) for _ in range(5)]
        await given.after(1)
        await given.after(1)
        assert len(given.checks) == 1
        worker.heard_s = given.now_s
        await given.say(True)
        await given.after(0.5)
        assert len(given.checks) == 1
        await given.after(0.6)
        assert len(given.checks) == 2
        assert not any(task.done() for task in tasks)


async def test_who_answers_and_sends_nothing_is_given_up_in_the_end() -> None:
    async with site() as given:
        worker = given.worker()
        stuck = await given.answer(worker)
        while given.now_s < MIN_GIVE_UP_S - 1:
            await given.after(1)
            if not given.checks[-1][1].done():
                worker.heard_s = given.now_s
                await given.say(True)
        assert not stuck.done()
        await given.after(1.1)
        assert is_lost(stuck)
        assert given.lost == []


@pytest.mark.parametrize(("has_token", "limit_s"), [(False, LIMIT_S), (True, UNKNOWN_GIVE_UP_S)])
async def test_a_limit_holds_where_nothing_is_known(has_token: bool, limit_s: float) -> None:
    async with site() as given:
        task = await given.answer(given.worker(samples=0), has_token)
        await given.after(limit_s)
        assert not task.done()
        await given.after(0.1)
        assert is_lost(task)


async def test_it_may_be_given_up_at_each_look_until_it_has_closed() -> None:
    async with site() as given:
        task = await given.answer(given.worker())
        given.now_s += LIMIT_S + 1
        for _ in range(3):
            given.watch.look()
        await turn()
        assert is_lost(task)
        given.watch.look()


async def test_a_worker_that_says_something_while_it_is_asked_is_there() -> None:
    async with site() as given:
        worker = given.worker()
        task = await given.answer(worker)
        await given.after(1)
        given.now_s += 0.1
        worker.heard_s = given.now_s
        await given.say(False)
        assert given.lost == []
        assert not task.done()


# ---- too slow


def is_too_slow(task: asyncio.Task[AnyEvent | None]) -> bool:
    return task.done() and isinstance(task.exception(), TooSlow)


@pytest.mark.parametrize(
    ("usual_s", "has_token", "limit_s"),
    [
        (0.01, False, MIN_FIRST_TOKEN_S),
        (0.01, True, STRETCH_S),
        (1.0, False, 10.0),
        (0.2, True, 4.0),
    ],
)
async def test_who_is_far_slower_than_others_is_cut_where_another_has_room(
    usual_s: float, has_token: bool, limit_s: float
) -> None:
    async with site() as given:
        given.usually(usual_s)
        worker = given.worker(samples=0)
        moves, stays = await given.answer(worker, has_token, MOVES), await given.answer(worker, has_token)
        await given.after(limit_s - JUDGE_S)
        assert not moves.done()
        await given.after(2 * JUDGE_S)
        assert is_too_slow(moves)
        assert not stays.done()


async def test_who_is_late_gets_nothing_new_until_it_has_caught_up() -> None:
    async with site() as given:
        given.usually(0.01)
        worker = given.worker()
        task = await given.answer(worker, has_token=False)
        await given.after(LATE_PART * MIN_FIRST_TOKEN_S - 0.1)
        assert worker.health_of(KEY).may_take(given.now_s)
        await given.after(JUDGE_S)
        assert not worker.health_of(KEY).may_take(given.now_s)
        assert not worker.health_of(KEY).may_take(given.now_s + JUDGE_S)
        task.cancel()
        given.watch.remove(given.watch.attempts[0])
        await given.after(LATE_S)
        assert worker.health_of(KEY).may_take(given.now_s)


@pytest.mark.parametrize("has_token", [False, True])
async def test_vectors_are_waited_for_as_the_first_one_is(has_token: bool) -> None:
    async with site() as given:
        given.usually(1.0, EMBED)
        worker = Worker(msgspec.structs.replace(capability(peer("a")), models=(card("tiny", task="embed"),)))
        task = await given.answer(worker, has_token, MOVES, EMBED)
        await given.after(10 - JUDGE_S)
        assert not task.done()
        await given.after(2 * JUDGE_S)
        assert is_too_slow(task)


async def test_where_the_client_can_be_told_something_there_is_an_end_whatever_is_usual() -> None:
    async with site() as given:
        terms = Terms(first_token_limit_s=UNASKED_S - 1, has_elsewhere=lambda: True)
        task = await given.answer(given.worker(samples=0), has_token=False, terms=terms)
        await given.after(UNASKED_S - 2)
        assert not task.done()
        await given.after(1.5)
        assert is_too_slow(task)


async def test_nobody_is_slow_while_the_gateway_was_held_up() -> None:
    async with watched() as given:
        given.usually(0.01)
        tasks = [await given.answer(given.worker(), has_token, MOVES) for has_token in (False, True)]
        await given.tick(LIMIT_S / 2)
        for _ in range(3):
            await given.tick()
        assert not any(task.done() for task in tasks)
        for _ in range(40):
            await given.tick()
        assert all(map(is_too_slow, tasks))


async def test_who_waits_for_its_client_is_not_silent() -> None:
    async with site() as given:
        worker = given.worker()
        attempt = Attempt(WorkerChoice(worker, "best of 1"), KEY, 0.0, lambda: given.now_s)
        given.watch.add(attempt)
        await given.after(2 * LIMIT_S)
        assert given.checks == []


async def test_who_is_watched_no_more_is_not_cut() -> None:
    async with site() as given:
        worker = given.worker()
        attempt = Attempt(WorkerChoice(worker, "best of 1"), KEY, 0.0, lambda: given.now_s)
        given.watch.add(attempt)
        given.watch.add(attempt)
        assert given.watch.watched == 1
        given.watch.remove(attempt)
        given.watch.remove(attempt)
        assert given.watch.watched == 0


# ---- a gateway that was held up


async def test_a_gateway_that_was_held_up_blames_nobody() -> None:
    async with watched() as given:
        task = await given.answer(given.worker())
        # When a minute passes in which nothing is looked at, then that minute counts for nobody.
        await given.tick(LIMIT_S + 1)
        for _ in range(2):
            await given.tick()
        assert given.checks == []
        assert not task.done()
        # When the silence goes on, then it is the worker's.
        for _ in range(3):
            await given.tick()
        assert len(given.checks) == 1


@pytest.mark.parametrize(("lag_s", "is_blamed"), [(0.0, True), (MAX_LAG_S - 0.01, True), (MAX_LAG_S + 0.01, False)])
async def test_a_check_that_a_held_up_gateway_made_says_nothing(lag_s: float, is_blamed: bool) -> None:
    async with watched() as given:
        task = await given.answer(given.worker())
        for _ in range(5):
            await given.tick()
        assert len(given.checks) == 1
        await given.tick(TICK_S + lag_s)
        await given.say(False)
        assert (len(given.lost), is_lost(task)) == (int(is_blamed), is_blamed)


async def test_whoever_stops_watching_stops_asking() -> None:
    async with watched() as given:
        await given.answer(given.worker())
        await given.after(MIN_SUSPICION_S + 0.1)
        (checking,) = given.watch._checks.values()
        given.watching.cancel()
        await asyncio.wait([given.watching, checking])
        assert checking.cancelled()
