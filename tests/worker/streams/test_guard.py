"""What one gateway may take of a worker: shares, rates, lists, sizes and times; and that none of it grows."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack

import pytest

from p2pnet import rate_limit
from p2pnet.config import GuardConfig
from p2pnet.directory import validator
from p2pnet.errors import Busy, NotAllowed, P2PNetError
from p2pnet.messages import Accepted, Event, Failed, Finished, GenerateRequest, TextDelta, Usage
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.rate_limit import RateLimit
from p2pnet.wire.codec import MAX_REQUEST_FRAME_BYTES, encode_frame, event_decoder
from p2pnet.wire.exchange import GENERATE_PROTOCOL
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams import guard, quota
from p2pnet.worker.streams.generate_handler import GenerateHandler
from p2pnet.worker.streams.guard import PROBES_PER_MINUTE, Guard
from p2pnet.worker.streams.quota import MEMORY_S, Quota, may_take
from tests.stories import ManualClock, ask, card, peer, settle
from tests.worker.scripted import Scripted, Step

WORKER = peer("worker").peer_id
A, B, C = (peer(name).peer_id for name in "abc")
TINY = ("tiny", "generate")

# ---- shares: who may take one more, of how many places

MAY_TAKE: dict[str, tuple[Mapping[str, int], str, int, bool]] = {
    "alone, the first": ({A: 0}, A, 8, True),
    "alone, the last": ({A: 7}, A, 8, True),
    "alone, one too many": ({A: 8}, A, 8, False),
    "two, up to the share": ({A: 3, B: 0}, A, 8, True),
    "two, beyond the share of an idle one, which has a slot left": ({A: 6, B: 0}, A, 8, True),
    "two, the other one's last free slot": ({A: 7, B: 0}, A, 8, False),
    "two, that slot is the other one's": ({A: 7, B: 0}, B, 8, True),
    "two, which share what is there": ({A: 4, B: 3}, A, 8, False),
    "two, and an odd slot left": ({A: 4, B: 4}, B, 9, True),
    "two, beyond the share while the other one wants its own": ({A: 5, B: 3}, A, 9, False),
    "two, nothing left": ({A: 4, B: 4}, A, 8, False),
    "three, the last free slot of one that wants nothing": ({A: 5, B: 2, C: 0}, A, 8, False),
    "three, beyond the share, with a slot left for whom there is": ({A: 4, B: 2, C: 0}, A, 8, True),
    "three, with a slot for each": ({A: 4, B: 1, C: 0}, A, 8, True),
    "three, two of which would leave the third one nothing": ({A: 1, B: 2, C: 0}, A, 4, False),
    "more gateways than slots": ({A: 0, B: 1, C: 0}, A, 2, True),
    "more gateways than slots, the second one": ({A: 1, B: 0, C: 0}, A, 2, False),
    "one slot, two gateways": ({A: 0, B: 0}, A, 1, True),
}


@pytest.mark.parametrize(("held", "gateway", "slots", "is_allowed"), MAY_TAKE.values(), ids=MAY_TAKE)
def test_may_take(held: Mapping[str, int], gateway: str, slots: int, is_allowed: bool) -> None:
    assert may_take(held, gateway, slots) is is_allowed


class Slots:
    """The slots of one model, and gateways that ask for them."""

    def __init__(self, slots: int = 8) -> None:
        self.slots = slots
        self.quota = Quota()
        self.now_s = 0.0
        self.held: Counter[str] = Counter()

    def ask(self, gateway: str) -> bool:
        is_given = self.quota.may_take(gateway, self.slots, self.now_s) and self.quota.taken < self.slots
        if is_given:
            self.quota.take(gateway)
            self.held[gateway] += 1
        return is_given

    def end(self, gateway: str) -> None:
        self.quota.give_back(gateway, self.now_s)
        self.held[gateway] -= 1

    def fill(self, gateway: str) -> None:
        while self.ask(gateway):
            pass


def test_a_gateway_alone_has_all_slots_and_gives_way_to_the_next() -> None:
    # Given a gateway that has taken all slots.
    given = Slots()
    given.fill(A)
    assert given.held == {A: 8}
    # When another one comes, it is refused: what runs is not cut.
    assert not given.ask(B)
    # Then each slot that becomes free is the other one's, until both have as many.
    for count in range(1, 5):
        given.end(A)
        assert not given.ask(A)
        assert given.ask(B)
        assert given.held[B] == count
    given.end(A)
    assert not given.ask(B)
    assert given.ask(A)


def test_what_nobody_else_wants_any_more_is_given_again() -> None:
    given = Slots()
    assert given.ask(B)
    given.end(B)
    given.fill(A)
    assert given.held[A] == 7, "a slot is kept for who has just been here"
    given.now_s = MEMORY_S
    given.fill(A)
    assert given.held[A] == 8


def test_who_holds_a_slot_is_counted_however_long_it_runs() -> None:
    given = Slots(4)
    assert given.ask(B)
    given.now_s = 100 * MEMORY_S
    given.fill(A)
    assert given.held == {A: 2, B: 1}, "one is kept for the other, which has one of its two"


@pytest.mark.parametrize(("gateways", "slots"), [(2, 8), (3, 8), (3, 9), (5, 8), (9, 8)])
def test_gateways_that_all_want_everything_have_as_much(gateways: int, slots: int) -> None:
    """Requests end at random, and all ask again at once, in any order: over a long time nobody is ahead by a tenth."""
    rng = random.Random(7)
    given, names, served = Slots(slots), [f"gateway {number}" for number in range(gateways)], Counter[str]()
    for turn in range(12_000):
        given.now_s = turn * 0.01
        for name in rng.sample(names, gateways):
            if given.ask(name):
                served[name] += 1
        given.end(rng.choice([name for name, count in given.held.items() for _ in range(count)]))
    assert min(served.values()) > 0.9 * max(served.values())
    assert served.total() > 11_900, "and no slot stood empty"


def test_invented_gateways_fill_no_memory() -> None:
    given = Slots(4)
    assert given.ask(A)
    for number in range(5000):
        if given.ask(name := f"invented {number}"):
            given.end(name)
    assert len(given.quota.sharing(given.now_s)) <= quota.MAX_REMEMBERED + 1
    assert A in given.quota.sharing(given.now_s), "who holds a slot is never forgotten"
    given.end(A)
    assert given.quota.sharing(given.now_s + MEMORY_S) == frozenset()


# ---- rates

RATES: dict[str, tuple[float, list[float], list[bool]]] = {
    "ten at once, at sixty a minute": (60, [0.0] * 11, [True] * 10 + [False]),
    "and one more each second": (60, [0.0] * 10 + [0.5, 1.0, 1.5, 2.0], [True] * 10 + [False, True, False, True]),
    "one in ten seconds": (6, [0.0, 9.0, 10.0, 19.0, 20.0], [True, False, True, False, True]),
    "one a minute": (1, [0.0, 59.0, 60.0, 61.0], [True, False, True, False]),
    "refusals cost nothing": (1, [0.0, *[30.0] * 100, 60.0], [True, *[False] * 100, True]),
    "nothing is saved up": (60, [1000.0] * 11, [True] * 10 + [False]),
}


@pytest.mark.parametrize(("per_minute", "asked_s", "allowed"), RATES.values(), ids=RATES)
def test_a_rate(per_minute: float, asked_s: list[float], allowed: list[bool]) -> None:
    limit, found = RateLimit(per_minute), []
    for now_s in asked_s:
        found.append(not limit.is_spent(A, now_s))
        if found[-1]:
            limit.spend(A, now_s)
    assert found == allowed
    assert not limit.is_spent(B, asked_s[-1]), "each has its own"


def test_a_minute_has_a_sixth_more_at_most() -> None:
    limit, times = RateLimit(60), list[float]()
    for step in range(3000):
        if not limit.is_spent(A, now_s := step / 10):
            limit.spend(A, now_s)
            times.append(now_s)
    assert max(sum(start <= other < start + 60 for other in times) for start in times) == 69


def test_rates_of_invented_gateways_are_forgotten() -> None:
    limit = RateLimit(60)
    for number in range(3 * rate_limit.MAX_REMEMBERED):
        limit.spend(f"invented {number}", 0.0)
    assert len(limit) == rate_limit.MAX_REMEMBERED
    limit.spend(A, 5.0)
    assert len(limit) == 1, "those whose bucket is full again"


# ---- the guard


class Guarded:
    """A guard whose clock a test moves."""

    def __init__(self, **limits: object) -> None:
        self.now_s = 0.0
        self.guard = Guard(GuardConfig(**limits), lambda: self.now_s)  # type: ignore[arg-type]
        self.running = ExitStack()

    def begin(self, gateway: str, key: tuple[str, str] = TINY, slots: int = 8) -> str | None:
        """One request that goes on; what it is told, if it is refused."""
        try:
            self.guard.check(gateway)
            self.running.enter_context(self.guard.share(gateway, key, slots))
        except P2PNetError as error:
            return str(error)
        return None


LISTS: dict[str, tuple[dict[str, frozenset[str]], set[str]]] = {
    "no list": ({}, {A, B, C}),
    "allowed": ({"allowed_gateways": frozenset({A, B})}, {A, B}),
    "blocked": ({"blocked_gateways": frozenset({A})}, {B, C}),
    "both": ({"allowed_gateways": frozenset({A, B}), "blocked_gateways": frozenset({B})}, {A}),
}


@pytest.mark.parametrize(("lists", "served"), LISTS.values(), ids=LISTS)
def test_lists(lists: dict[str, frozenset[str]], served: set[str]) -> None:
    guarded = Guarded(**lists)
    for gateway in (A, B, C):
        for check in (guarded.guard.check, guarded.guard.check_probe):
            if gateway in served:
                check(gateway)
            else:
                with pytest.raises(NotAllowed):
                    check(gateway)


def test_by_default_one_gateway_is_hindered_by_nothing_but_the_slots() -> None:
    guarded = Guarded()
    assert [guarded.begin(A) for _ in range(8)] == [None] * 8
    assert guarded.begin(A) == "all 8 slots for this model are taken"
    assert guarded.begin(A, ("other", "generate")) is None
    for _ in range(5000):
        guarded.guard.check(A)


def test_the_quota_is_of_each_model() -> None:
    guarded = Guarded()
    for _ in range(8):
        assert guarded.begin(A) is None
    assert "all 8 slots" in (guarded.begin(B) or "")
    guarded.running.close()
    for _ in range(7):
        assert guarded.begin(A) is None
    assert "share" in (guarded.begin(A) or "")
    for _ in range(8):
        assert guarded.begin(A, ("tiny", "embed")) is None
    assert guarded.guard.gateways == 2


def test_without_the_quota_who_comes_first_has_it() -> None:
    guarded = Guarded(has_quota=False)
    assert guarded.begin(B) is None
    assert [guarded.begin(A) for _ in range(7)] == [None] * 7


def test_requests_at_the_same_time_are_over_all_models() -> None:
    guarded = Guarded(max_concurrency_per_gateway=2)
    assert guarded.begin(A) is None
    assert guarded.begin(A, ("other", "generate")) is None
    assert guarded.begin(A) == "one gateway may have 2 requests here at the same time"
    assert guarded.begin(B) is None
    guarded.running.close()
    assert guarded.begin(A) is None


def test_requests_in_a_minute_are_those_that_were_served() -> None:
    guarded = Guarded(max_requests_per_minute=60)
    for _ in range(100):
        assert guarded.begin(A, slots=0) == "all 0 slots for this model are taken"
    assert [guarded.begin(A, slots=99) for _ in range(10)] == [None] * 10
    assert guarded.begin(A, slots=99) == "one gateway may ask this worker 60 times a minute"
    guarded.now_s = 1.0
    assert guarded.begin(A, slots=99) is None


def test_probes_have_a_rate_of_their_own() -> None:
    guarded = Guarded(max_requests_per_minute=1)
    for _ in range(int(PROBES_PER_MINUTE / 6)):
        guarded.guard.check_probe(A)
    with pytest.raises(Busy, match="probe"):
        guarded.guard.check_probe(A)
    guarded.guard.check_probe(B)
    assert guarded.begin(A) is None
    guarded.now_s = 60 / PROBES_PER_MINUTE
    guarded.guard.check_probe(A)


def test_models_that_have_gone_are_forgotten() -> None:
    guarded = Guarded()
    for number in range(10 * guard.MAX_QUOTAS):
        guarded.now_s += 1.0
        with guarded.guard.share(A, (f"model {number}", "generate"), 8):
            pass
    assert len(guarded.guard._quotas) <= guard.MAX_QUOTAS + 1


# ---- with streams


class Site:
    """A worker of two slots, and gateways that speak to it."""

    def __init__(self, *steps: Step, **limits: object) -> None:
        self.backend = Scripted(*steps, models=(card("tiny"),))
        self.clock = ManualClock()
        catalogue = Catalogue([self.backend])
        self.meter = LoadMeter(2, catalogue, self.clock)
        config = GuardConfig(**limits)  # type: ignore[arg-type]
        self.handler = GenerateHandler(
            catalogue.find, self.meter, guard=Guard(config, lambda: self.clock.now_ms / 1000)
        )
        world = MemoryWorld(validator(self.clock))
        self._worker = world.join(WORKER)
        self.gateways: dict[str, MemoryNetwork] = {name: world.join(name) for name in (A, B)}

    async def open(self, gateway: str, *data: bytes | GenerateRequest) -> Stream:
        await self._worker.handle(GENERATE_PROTOCOL, self.handler)
        stream = await self.gateways[gateway].open_stream(WORKER, GENERATE_PROTOCOL)
        for item in data:
            await stream.write(item if isinstance(item, bytes) else encode_frame(item, MAX_REQUEST_FRAME_BYTES))
        return stream

    async def ask(self, gateway: str, *data: bytes | GenerateRequest) -> list[Event]:
        return await events_of(await self.open(gateway, *data))


REQUEST = ask("tiny")
ANSWER = (Accepted(1), TextDelta("a", (1,)), Finished("stop", Usage(1, 1)))


async def events_of(stream: Stream) -> list[Event]:
    decoder, events = event_decoder(), list[Event]()
    while data := await stream.read():
        events += decoder.feed(data)
    return events


def code_of(events: list[Event]) -> str | None:
    return events[-1].code if isinstance(events[-1], Failed) else None


async def test_who_is_not_allowed_hears_it_before_anything_is_read() -> None:
    site = Site(*ANSWER, blocked_gateways=frozenset({A}))
    assert code_of(await site.ask(A)) == "not_allowed"
    assert code_of(await site.ask(A, REQUEST)) == "not_allowed"
    assert site.backend.given == 0
    assert code_of(await site.ask(B, REQUEST)) is None


SIZES = [(0, None), (-1, "feature_missing")]


@pytest.mark.parametrize(("more", "code"), SIZES)
@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_request_larger_than_its_owner_wants(more: int, code: str | None, pieces: int) -> None:
    frame = encode_frame(REQUEST, MAX_REQUEST_FRAME_BYTES)
    cuts = [frame[number * len(frame) // pieces : (number + 1) * len(frame) // pieces] for number in range(pieces)]
    site = Site(*ANSWER, max_request_bytes=len(frame) - 4 + more)
    assert code_of(await site.ask(A, *cuts)) == code


async def test_a_frame_that_will_be_too_large_is_refused_before_it_has_come() -> None:
    site = Site(*ANSWER, max_request_bytes=1000)
    assert code_of(await site.ask(A, (3_000_000).to_bytes(4, "big") + bytes(1001))) == "feature_missing"


async def test_a_request_that_has_had_its_time_is_busy_in_mid_answer() -> None:
    gate = asyncio.Event()
    site = Site(Accepted(1), TextDelta("a", (1,)), gate, max_request_s=0.03)
    events = await site.ask(A, REQUEST)
    assert [type(event) for event in events] == [Accepted, TextDelta, Failed]
    assert code_of(events) == "busy"
    assert site.backend.running == 0
    assert site.meter.load.running == 0


async def test_the_share_is_given_back_with_the_slot() -> None:
    """Who has read the last frame may ask again at once, while its stream is still open."""
    site = Site(*ANSWER)
    for _ in range(3):
        streams = [await site.open(gateway, REQUEST) for gateway in (A, B)]
        for stream in streams:
            assert code_of(await events_of(stream)) is None
    assert code_of(await site.ask(A, REQUEST)) is None
    assert site.handler._guard.gateways == 2


async def test_two_gateways_have_a_slot_each() -> None:
    gate = asyncio.Event()
    site = Site(Accepted(1), gate, *ANSWER[1:])
    first, second = [await site.open(A, REQUEST) for _ in range(2)]
    await settle(lambda: site.backend.running == 2)
    assert code_of(await site.ask(B, REQUEST)) == "busy"
    first.close()
    await settle(lambda: site.meter.load.queued == 1)
    refused = await site.ask(A, REQUEST)
    assert isinstance(failed := refused[-1], Failed)
    assert failed.message == "this gateway has its share of the slots for this model; others want theirs"
    third = await site.open(B, REQUEST)
    await settle(lambda: site.backend.running == 2)
    gate.set()
    for stream in (second, third):
        assert code_of(await events_of(stream)) is None


async def test_requests_that_arrive_together_do_not_pass_the_rate_together() -> None:
    site = Site(*ANSWER, max_requests_per_minute=1)
    streams = [await site.open(A) for _ in range(5)]
    await settle(lambda: site.handler.unread == 5)
    for stream in streams:
        await stream.write(encode_frame(REQUEST, MAX_REQUEST_FRAME_BYTES))
    codes = [code_of(await events_of(stream)) for stream in streams]
    assert sorted(map(str, codes)) == ["None", "busy", "busy", "busy", "busy"]
