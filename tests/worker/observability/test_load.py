"""The meter: slots are held and given back whatever happens, model by model, and speed is what the streams show."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from p2pnet.errors import Busy
from p2pnet.messages import Finished, Load, Measure, Usage
from p2pnet.worker.backend import BackendLoad
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import FIRST_TOKEN_SMOOTHING, MIN_SPEED_S, LoadMeter
from tests.stories import ManualClock, card, settle
from tests.worker.scripted import Scripted

UNMEASURED = Measure()


def done(tokens: int) -> Finished:
    return Finished("stop", Usage(1, tokens))


class Site:
    """A meter whose clocks a test moves."""

    def __init__(self, slots: int, *models: str) -> None:
        self.clock = ManualClock()
        self.backend = Scripted(models=tuple(map(card, models or ("tiny",))))
        self.meter = LoadMeter(slots, Catalogue([self.backend]), self.clock, lambda: self.clock.now_ms / 1000)

    @property
    def counts(self) -> tuple[int, int, int]:
        load = self.meter.load
        return load.running, load.queued, load.slots


def test_an_idle_meter() -> None:
    site = Site(3)
    assert site.meter.load == Load(running=0, queued=0, slots=3, sampled_ms=site.clock.now_ms)
    assert (site.meter.requests_served, site.meter.tokens_served) == (0, 0)


# ---- slots


def test_slots_are_held_one_by_one_and_then_it_is_busy() -> None:
    site = Site(3)
    with ExitStack() as held:
        for number in range(1, 4):
            held.enter_context(site.meter.slot("tiny"))
            assert site.counts == (0, number, 3)
        for _ in range(2):
            with pytest.raises(Busy, match="all 3 slots"), site.meter.slot("tiny"):
                raise AssertionError("there was no slot")
        assert site.counts == (0, 3, 3)
    assert site.counts == (0, 0, 3)
    with site.meter.slot("tiny"):
        assert site.counts == (0, 1, 3)


def test_a_server_behind_it_gives_no_more_slots_than_it_has() -> None:
    """Nor does it give more than its owner wants."""
    for has, slots in ((2, 2), (5, 3), (0, 3)):
        site = Site(3)
        site.backend.load = BackendLoad(slots=has)
        assert (site.meter.slots_per_model, site.meter.load.slots) == (slots, slots)
        with ExitStack() as held:
            for _ in range(slots):
                held.enter_context(site.meter.slot("tiny"))
            with pytest.raises(Busy, match=f"all {slots} slots"), site.meter.slot("tiny"):
                raise AssertionError("there was no slot")


def test_a_full_model_takes_nothing_from_the_others() -> None:
    site = Site(1, "tiny", "large")
    with site.meter.slot("tiny"):
        with pytest.raises(Busy), site.meter.slot("tiny"):
            pass
        with site.meter.slot("large"), site.meter.slot("tiny", "embed"):
            assert site.counts == (0, 3, 2)
    assert site.counts == (0, 0, 2)


def test_slots_follow_the_models_and_slots_outlive_them() -> None:
    site = Site(2, "tiny", "large")
    with site.meter.slot("large"):
        site.backend.models = (card("tiny"),)
        assert site.counts == (0, 1, 2)
        site.backend.models = ()
        assert site.counts == (0, 1, 0)
    assert site.counts == (0, 0, 0)


def test_who_computes_is_running_and_not_queued() -> None:
    site = Site(2)
    with site.meter.slot("tiny") as first, site.meter.slot("tiny") as second:
        for _ in range(2):
            first.begin()
            assert site.counts == (1, 1, 2)
        second.note_tokens(1)
        assert site.counts == (2, 0, 2)
        first.release()
        assert site.counts == (1, 0, 2)
    assert site.counts == (0, 0, 2)


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, Busy])
def test_an_error_gives_the_slot_back(error: type[BaseException]) -> None:
    site = Site(1)
    with pytest.raises(error), site.meter.slot("tiny") as slot:
        slot.begin()
        raise error
    assert site.counts == (0, 0, 1)


def test_a_slot_that_is_given_back_early_is_free_at_once() -> None:
    site = Site(1)
    with site.meter.slot("tiny") as slot:
        slot.finish(done(5))
        assert site.counts == (0, 0, 1)
        with site.meter.slot("tiny"):
            pass
    assert (site.meter.requests_served, site.meter.tokens_served) == (1, 5)


def test_a_meter_without_slots_is_always_busy() -> None:
    with pytest.raises(Busy), Site(0).meter.slot("tiny"):
        pass


async def test_waiting_for_idle_ends_with_the_last_slot() -> None:
    meter = Site(2).meter
    await meter.wait_idle()
    with ExitStack() as held:
        first = held.enter_context(ExitStack())
        first.enter_context(meter.slot("tiny"))
        held.enter_context(meter.slot("tiny")).finish(done(1))
        waiting = asyncio.create_task(meter.wait_idle())
        first.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    await settle(waiting.done, max_turns=3)


async def test_idle_is_over_when_a_slot_is_taken_again() -> None:
    meter = Site(1).meter
    with meter.slot("tiny"):
        pass
    with meter.slot("tiny"):
        waiting = asyncio.create_task(meter.wait_idle())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


# ---- time to the first token


def serve(site: Site, wait_s: float, tokens: int = 1) -> None:
    with site.meter.slot("tiny") as slot:
        site.clock.advance(wait_s)
        slot.note_tokens(0)
        slot.note_tokens(tokens)
        site.clock.advance(1)
        slot.finish(done(tokens))


FIRST_TOKENS: list[tuple[str, list[float], float]] = [
    ("one request", [2.0], 2.0),
    ("at once", [0.0], 0.0),
    ("the average moves by its weight", [1.0, 2.0], 1.0 + FIRST_TOKEN_SMOOTHING),
    ("it follows a lasting change", [9.0] * 3 + [1.0] * 40, 1.0),
]


@pytest.mark.parametrize(("waits_s", "value"), [case[1:] for case in FIRST_TOKENS], ids=[c[0] for c in FIRST_TOKENS])
def test_the_time_to_the_first_token_is_averaged_over_requests(waits_s: list[float], value: float) -> None:
    site = Site(1)
    for wait_s in waits_s:
        serve(site, wait_s)
    measure = site.meter.load.first_token_s
    assert measure.value == pytest.approx(value, abs=0.01)
    assert measure.sampled_ms == site.clock.now_ms - 1000


def test_a_request_without_a_token_has_none() -> None:
    site = Site(1)
    serve(site, 1.0, tokens=0)
    assert site.meter.load.first_token_s == UNMEASURED


# ---- tokens per second


def test_decode_is_over_all_streams_in_the_time_in_which_one_computes() -> None:
    # Given two streams, of which each gets a token every 100 ms.
    site = Site(2)
    with site.meter.slot("tiny") as first, site.meter.slot("tiny") as second:
        first.note_tokens(1)
        second.note_tokens(1)
        for _ in range(20):
            site.clock.advance(0.1)
            first.note_tokens(1)
            second.note_tokens(1)
        assert site.meter.load.decode_tokens_per_s.value == pytest.approx(20, rel=0.03)
        # When one has ended, and nothing runs for an hour, then the other one alone makes half as many.
        second.release()
        for _ in range(2000):
            site.clock.advance(0.1)
            first.note_tokens(1)
    site.clock.advance(3600)
    load = site.meter.load
    assert load.decode_tokens_per_s.value == pytest.approx(10, rel=0.01)
    assert load.decode_tokens_per_s.sampled_ms == site.clock.now_ms - 3_600_000
    assert load.prefill_tokens_per_s == UNMEASURED


def test_the_first_tokens_of_a_stream_are_prefill_s() -> None:
    site = Site(1)
    with site.meter.slot("tiny") as slot:
        site.clock.advance(60)
        slot.note_tokens(1000)
        for _ in range(10):
            site.clock.advance(0.1)
            slot.note_tokens(1)
    assert site.meter.load.decode_tokens_per_s.value == pytest.approx(10, rel=0.03)


def test_little_time_says_nothing_and_adds_up() -> None:
    site = Site(1)
    for number in range(20):
        with site.meter.slot("tiny") as slot:
            slot.note_tokens(1)
            site.clock.advance(0.01)
            slot.note_tokens(1)
        is_known = 0.01 * (number + 1) >= MIN_SPEED_S + 0.01
        assert is_known <= bool(site.meter.load.decode_tokens_per_s.sampled_ms)
    assert site.meter.load.decode_tokens_per_s.value == pytest.approx(100, rel=0.01)


def test_a_stream_that_stays_silent_makes_the_worker_slower() -> None:
    site = Site(1)
    with site.meter.slot("tiny") as slot:
        slot.note_tokens(1)
        site.clock.advance(10)
        slot.note_tokens(1)
    assert site.meter.load.decode_tokens_per_s.value == pytest.approx(0.1, rel=0.2)


def test_a_backend_that_measures_itself_is_believed_and_not_measured() -> None:
    site = Site(1)
    site.backend.load = BackendLoad(30, 100, Measure(50.0, 5), Measure(900.0, 6))
    with site.meter.slot("tiny", has_own_speed=True) as slot:
        for _ in range(100):
            site.clock.advance(0.1)
            slot.note_tokens(1)
        load = site.meter.load
        assert (load.running, load.kv_free_tokens, load.kv_total_tokens) == (1, 30, 100)
        assert (load.decode_tokens_per_s, load.prefill_tokens_per_s) == (Measure(50.0, 5), Measure(900.0, 6))
        assert load.first_token_s.value == pytest.approx(0.1, abs=0.01)
    assert site.counts == (0, 0, 1)


def test_of_two_measures_the_newest_stands() -> None:
    site = Site(1)
    site.backend.load = BackendLoad(decode_tokens_per_s=Measure(50.0, site.clock.now_ms))
    with site.meter.slot("tiny") as slot:
        slot.note_tokens(1)
        site.clock.advance(1)
        slot.note_tokens(7)
    assert site.meter.load.decode_tokens_per_s.value == pytest.approx(7, rel=0.05)
    site.backend.load = BackendLoad(decode_tokens_per_s=Measure(60.0, site.clock.now_ms + 1))
    assert site.meter.load.decode_tokens_per_s.value == 60.0
