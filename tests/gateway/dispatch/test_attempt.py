"""One worker's part in a request: what is measured of it, how it is cut short, and that its slot is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

from gateway.dispatch.attempt import PACE_TOKENS, Attempt
from gateway.peers.health import COOLDOWN_S
from gateway.peers.pace import Window
from gateway.peers.worker import Worker
from gateway.routing.choose import WorkerChoice
from p2pnet.errors import ModelNotFound, PeerLost, ProtocolViolation
from p2pnet.messages import Accepted, Finished, Load, TextDelta, Usage
from tests.stories import DIGEST, capability, peer, settle

KEY = ("tiny", "generate")
OTHER_DIGEST = "sha256:" + "cd" * 32
ENDED = Finished("stop", Usage(1, 2), Load(running=3, slots=4))

AnyEvent = Accepted | TextDelta | Finished


class Site:
    """A worker that was reserved, an attempt at it, and a time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.worker = Worker(capability(peer("a"), "tiny"))
        self.worker.reserve(KEY, self.now_s)
        self.attempt = Attempt(WorkerChoice(self.worker, "best of 1"), KEY, self.now_s, lambda: self.now_s)

    async def take(self, *timed: tuple[float, float, AnyEvent]) -> None:
        """Events, each after the seconds that the client took for the one before it and those until it came."""
        for client_s, worker_s, event in timed:
            self.now_s += client_s
            assert await self.attempt.next(self.later(worker_s, event)) == event

    async def later(self, seconds: float, event: AnyEvent) -> AsyncGenerator[AnyEvent, None]:
        self.now_s += seconds
        yield event

    @property
    def gaps_s(self) -> Window:
        return self.worker.pace(KEY).gaps_s


async def never() -> AsyncGenerator[AnyEvent, None]:
    await asyncio.Event().wait()
    yield Accepted(1)


def delta(*ids: int, is_prompt: bool = False) -> TextDelta:
    return TextDelta("a", ids, is_prompt=is_prompt)


async def test_what_a_worker_takes_is_measured() -> None:
    site = Site()
    await site.take(
        (0, 1, Accepted(5, DIGEST)), (0, 2, delta(0)), (0, 0.5, delta(1, 2)), (0, 1, delta()), (0, 1, ENDED)
    )
    pace = site.worker.pace(KEY)
    assert pace.first_token_s.value == 3
    assert pace.token_s.value == 0.5  # 1.5 s for three tokens
    assert (len(pace.gaps_s), pace.gaps_s.quantile(0)) == (2, 0.5)
    assert (site.worker.heard_s, site.worker.load) == (105.5, ENDED.load)
    told = site.attempt.end("stop")
    assert (told.tokens, told.first_token_s, told.duration_s, told.began_s) == (4, 3, 5.5, 100)
    assert site.attempt.finish_reason == "stop"


async def test_a_client_that_reads_slowly_does_not_make_its_worker_slow() -> None:
    site = Site()
    await site.take((0, 1, delta(0)), (60, 0.1, delta(1)))
    assert (len(site.gaps_s), site.worker.pace(KEY).token_s.value) == (0, None)
    await site.take((0.1, 60, delta(1)))
    assert len(site.gaps_s) == 1


async def test_the_echo_of_a_prompt_says_nothing_of_how_fast_a_worker_is() -> None:
    site = Site()
    await site.take((0, 0, Accepted(5, DIGEST)), (0, 0.01, delta(7, 8, 9, is_prompt=True)))
    assert not site.attempt.has_token
    assert site.worker.heard_s == site.now_s
    await site.take((0, 5, delta(0)), (0, 1, delta(1)), (0, 0, ENDED))
    pace = site.worker.pace(KEY)
    assert pace.first_token_s.value == pytest.approx(5.01)
    assert pace.token_s.value == pytest.approx(1)
    assert site.attempt.tokens == 2


async def test_a_late_token_among_many_does_not_stand_for_all() -> None:
    site = Site()
    await site.take((0, 1, delta(0)), *[(0, 0.01, delta(1)) for _ in range(PACE_TOKENS - 1)], (0, 0.17, delta(1)))
    assert site.worker.pace(KEY).token_s.value == pytest.approx(0.02)


async def test_a_first_token_ends_a_trial() -> None:
    site = Site()
    health = site.worker.health
    health.note_failure(site.now_s, "peer_lost")
    site.now_s += COOLDOWN_S
    health.note_start(site.now_s)
    await site.take((0, 0, Accepted(5)))
    assert not health.may_take(site.now_s)
    await site.take((0, 1, delta(0)))
    assert health.may_take(site.now_s)


async def test_a_load_that_says_nothing_is_not_noted() -> None:
    site = Site()
    await site.take((0, 0, Accepted(5)))
    assert site.worker.load is None


async def test_a_worker_that_accepts_is_not_full() -> None:
    site = Site()
    site.worker.note_full(KEY, site.now_s)
    await site.take((0, 0, Accepted(5)))
    assert site.worker.full_until_s == {}


async def test_other_weights_than_announced_are_a_violation() -> None:
    site = Site()
    with pytest.raises(ProtocolViolation):
        await site.attempt.next(site.later(0, Accepted(5, OTHER_DIGEST)))


async def test_the_end_is_none() -> None:
    site = Site()

    async def nothing() -> AsyncGenerator[AnyEvent, None]:
        return
        yield

    assert await site.attempt.next(nothing()) is None


async def test_since_when_it_waits_is_known_only_while_it_waits() -> None:
    site = Site()
    assert site.attempt.waits_since_s is None
    waiting = asyncio.create_task(site.attempt.next(never()))
    await settle(lambda: site.attempt.waits_since_s == 100.0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert site.attempt.waits_since_s is None


async def test_a_cut_ends_its_waiting_at_once() -> None:
    site = Site()
    waiting = asyncio.create_task(site.attempt.next(never()))
    await settle(lambda: site.attempt.waits_since_s is not None)
    site.attempt.cut("it is silent")
    with pytest.raises(PeerLost, match="it is silent"):
        await waiting


async def test_a_cut_is_seen_later_when_nobody_waits() -> None:
    site = Site()
    site.attempt.cut("it is silent")
    for _ in range(2):
        with pytest.raises(PeerLost, match="it is silent"):
            await site.attempt.next(never())


async def test_it_may_be_cut_again_while_it_is_still_closing() -> None:
    site, closed = Site(), asyncio.Event()

    async def closes_slowly() -> AsyncGenerator[AnyEvent, None]:
        try:
            await asyncio.Event().wait()
            yield Accepted(1)
        finally:
            await closed.wait()

    waiting = asyncio.create_task(site.attempt.next(closes_slowly()))
    await settle(lambda: site.attempt.waits_since_s is not None)
    for _ in range(3):
        site.attempt.cut("it is silent")
        for _ in range(3):
            await asyncio.sleep(0)
    closed.set()
    with pytest.raises(PeerLost, match="it is silent"):
        await waiting


async def test_a_client_that_goes_at_the_moment_of_a_cut_is_a_client_that_goes() -> None:
    site = Site()
    waiting = asyncio.create_task(site.attempt.next(never()))
    await settle(lambda: site.attempt.waits_since_s is not None)
    site.attempt.cut("it is silent")
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_a_timeout_of_somebody_elses_is_no_cut() -> None:
    site = Site()

    async def times_out() -> AsyncGenerator[AnyEvent, None]:
        raise TimeoutError
        yield

    with pytest.raises(TimeoutError):
        await site.attempt.next(times_out())


async def test_a_slot_is_given_back_once() -> None:
    site = Site()
    site.worker.reserve(KEY, site.now_s)
    for _ in range(3):
        site.attempt.end("peer_lost")
    assert site.worker.in_flight == 1


async def test_a_worker_that_dropped_the_model_since_it_was_chosen_is_passed_over() -> None:
    """Between the choice and the attempt a refresh may come."""
    worker = Worker(capability(peer("a"), "tiny"))
    worker.health.note_failure(0.0, "peer_lost")
    worker.reserve(KEY, 100.0)
    worker.record = msgspec.structs.replace(worker.record, models=())
    with pytest.raises(ModelNotFound):
        Attempt(WorkerChoice(worker, "best of 1"), KEY, 100.0, lambda: 100.0)
    assert worker.in_flight == 0
    assert worker.health.may_take(100.0)
