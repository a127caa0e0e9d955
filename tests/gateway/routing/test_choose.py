"""Routing: who may serve, as a table; whom it takes, as tables and as properties of many draws."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.peers.health import COOLDOWN_S, State
from gateway.peers.worker import Worker
from gateway.routing.choose import choose
from gateway.routing.recent_choices import RecentChoices
from gateway.routing.roster import MAX_VARIETIES, Roster, is_served, obstacle
from gateway.routing.route_query import RouteQuery, route_query_of
from gateway.routing.scoring import FADE_S, MAX_NEW_IN_FLIGHT, NEW_IN_FLIGHT, STALE_S
from p2pnet.answer_forms import JsonFormat
from p2pnet.errors import ContextOverflow, FeatureMissing, P2PNetError, RequestError
from p2pnet.messages import Load, Measure
from p2pnet.records import ModelCard
from tests.depth import examples
from tests.stories import DIGEST, ask, capability, card, peer

NOW_S = 1000.0
OTHER_DIGEST = "sha256:" + "cd" * 32
PROTOCOLS = ("/p2pnet/generate/1", "/p2pnet/embed/1")
TINY_KEY = ("tiny", "generate")
BEGINNING = bytes(range(16))

Story = Callable[[Worker], None]
"""What happened to a worker so far."""


def worker(name: str, *cards: ModelCard, story: Story | None = None, **record: Any) -> Worker:
    fields = {"protocols": PROTOCOLS, "models": cards or (card("tiny"),), **record}
    made = Worker(msgspec.structs.replace(capability(peer(name)), **fields))
    if story is not None:
        story(made)
    return made


def with_in_flight(count: int, key: tuple[str, str] = TINY_KEY) -> Story:
    def story(worker: Worker) -> None:
        for _ in range(count):
            worker.reserve(key, NOW_S - 1)

    return story


def tried(worker: Worker) -> None:
    """It has served requests, as many at once as it says it can."""
    worker.health.note_success()
    worker.served_at_once = worker.slots


def measured(first_token_s: float = 0.2, token_s: float = 0.01, then: Story | None = None) -> Story:
    def story(worker: Worker) -> None:
        tried(worker)
        worker.pace(TINY_KEY).first_token_s.note(first_token_s, NOW_S - 1)
        worker.pace(TINY_KEY).token_s.note(token_s, NOW_S - 1)
        if then is not None:
            then(worker)

    return story


def cooling(worker: Worker) -> None:
    worker.health.note_failure(NOW_S, "peer_lost")


def cooled(worker: Worker) -> None:
    worker.health.note_failure(NOW_S - COOLDOWN_S, "peer_lost")
    assert worker.health.state(NOW_S) is State.TRIAL


def cooling_for_longer(worker: Worker) -> None:
    worker.health.note_failure(NOW_S - COOLDOWN_S - 1, "peer_lost")
    worker.health.note_failure(NOW_S - 0.5, "peer_lost")


def on_trial(worker: Worker) -> None:
    cooled(worker)
    worker.reserve(TINY_KEY, NOW_S)


def stale(worker: Worker) -> None:
    worker.note_load(Load(slots=1), NOW_S - STALE_S - 1)


def heard_since(worker: Worker) -> None:
    stale(worker)
    worker.heard_s = NOW_S - 1


def has_said_full(worker: Worker) -> None:
    worker.note_full(TINY_KEY, NOW_S)


A, B, C = (worker(name) for name in "abc")
LARGE = worker("large", card("large"))
BOTH = worker("both", card("large"), card("tiny"), slots=2)
OTHER_WEIGHTS = worker("other weights", card("tiny", digest=OTHER_DIGEST))
OTHER_SAMPLER = worker("other sampler", card("tiny", sampler="gumbel-2"))
ANY_SAMPLER = worker("any sampler", card("tiny", sampler="gumbel-1"))
FAST_ELSEWHERE = worker("fast elsewhere", story=measured(token_s=0.005))
SLOW_SAMPLER = worker("slow sampler", card("tiny", sampler="gumbel-1"), story=measured(token_s=0.01))
EMBEDS = worker("embeds", card("tiny", task="embed"))
EMBEDS_TOO = worker("embeds too", card("tiny", task="embed"), card("large"))
NOTHING = Worker(msgspec.structs.replace(capability(peer("nothing")), models=()))
RICH = worker("rich", card("tiny", features=("text", "chat", "logprobs", "json")))
COUNTS = worker("counts", card("tiny", features=("text", "logprobs"), context_length=4096))
JSON_ONLY = worker("json only", card("tiny", features=("text", "json")))
BARE = worker("bare", card("tiny", features=()))
LONG = worker("long", card("tiny", context_length=4096))
COOLING = worker("cooling", story=cooling)
COOLING_LONGER = worker("cooling longer", story=cooling_for_longer)
COOLED = worker("cooled", story=cooled)
ON_TRIAL = worker("on trial", story=on_trial, slots=4)
STALE = worker("stale", story=stale)
HEARD = worker("heard", story=heard_since)
FULL = worker("full", story=with_in_flight(1))
SAID_FULL = worker("said full", story=has_said_full, slots=4)
HALF_FULL = worker("half full", story=with_in_flight(1), slots=2)
BUSY_WITH_OTHERS = worker(
    "busy with others", card("tiny"), card("large"), story=with_in_flight(1, ("large", "generate"))
)
NEW_WITH_ENOUGH = worker("new, with enough", story=with_in_flight(NEW_IN_FLIGHT), slots=64)
NEW_WITH_MORE = worker("new, with more", story=with_in_flight(NEW_IN_FLIGHT + 1), slots=64)
NEW_AND_FLOODED = worker("new and flooded", story=with_in_flight(MAX_NEW_IN_FLIGHT), slots=64)
KNOWN_WITH_MORE = worker("known", story=measured(then=with_in_flight(MAX_NEW_IN_FLIGHT)), slots=64)
NO_ADDRESS = worker("no address", addresses=())
EMBED_PROTOCOL_ONLY = worker("embed only", protocols=PROTOCOLS[1:])
SAYS_NO_PROTOCOLS = worker("old", protocols=())

TINY = route_query_of(ask("tiny"))
EMBED = RouteQuery("tiny", "embed")

CHOSEN: dict[str, tuple[RouteQuery, list[Worker], list[Worker]]] = {
    "nobody": (TINY, [], []),
    "all that run it": (TINY, [A, B, C], [A, B, C]),
    "not those that run something else": (TINY, [A, LARGE, BOTH, NOTHING], [A, BOTH]),
    "nobody runs it": (route_query_of(ask("unheard-of")), [A, LARGE, BOTH], []),
    "names are exact": (route_query_of(ask("Tiny")), [A], []),
    "any digest": (TINY, [A, OTHER_WEIGHTS], [A, OTHER_WEIGHTS]),
    "this digest": (route_query_of(ask("tiny", digest=DIGEST)), [A, OTHER_WEIGHTS], [A]),
    "the other digest": (route_query_of(ask("tiny", digest=OTHER_DIGEST)), [A, OTHER_WEIGHTS], [OTHER_WEIGHTS]),
    "a digest that nobody has": (route_query_of(ask("tiny", digest="sha256:" + "0" * 64)), [A, OTHER_WEIGHTS], []),
    "any sampler": (TINY, [ANY_SAMPLER, OTHER_SAMPLER], [ANY_SAMPLER, OTHER_SAMPLER]),
    "rather one whose answers can be checked": (TINY, [A, OTHER_SAMPLER], [OTHER_SAMPLER]),
    "one whose answers cannot, where it is clearly faster": (TINY, [FAST_ELSEWHERE, SLOW_SAMPLER], [FAST_ELSEWHERE]),
    "this sampler": (
        route_query_of(ask("tiny", digest=DIGEST, sampler="gumbel-2")),
        [A, OTHER_SAMPLER],
        [OTHER_SAMPLER],
    ),
    "no sampler": (route_query_of(ask("tiny", sampler="")), [A, OTHER_SAMPLER], [A]),
    "the digest of another model": (route_query_of(ask("large", digest=OTHER_DIGEST)), [BOTH, OTHER_WEIGHTS], []),
    "an embedding model generates nothing": (TINY, [EMBEDS, A], [A]),
    "only embeddings under this name": (TINY, [EMBEDS_TOO], []),
    "one that generates embeds nothing": (EMBED, [A, EMBEDS, EMBEDS_TOO], [EMBEDS, EMBEDS_TOO]),
    "those that can do it": (route_query_of(ask("tiny", logprobs=3)), [A, RICH, COUNTS], [RICH, COUNTS]),
    "those that can do all of it": (
        route_query_of(ask("tiny", logprobs=3, response_format=JsonFormat())),
        [A, COUNTS, JSON_ONLY, RICH],
        [RICH],
    ),
    "nobody can do it": (route_query_of(ask("tiny", n=2)), [A, RICH, COUNTS], []),
    "plain text needs text": (TINY, [BARE, A], [A]),
    "a feature of another model does not count": (
        route_query_of(ask("tiny", logprobs=3)),
        [worker("two", card("tiny"), card("large", features=("text", "logprobs")))],
        [],
    ),
    "as long as the context": (route_query_of(ask("tiny", max_tokens=512)), [A, LONG], [A, LONG]),
    "not those whose context is shorter than the answer": (
        route_query_of(ask("tiny", max_tokens=513)),
        [A, LONG],
        [LONG],
    ),
    "longer than any context": (route_query_of(ask("tiny", max_tokens=4097)), [A, LONG], []),
    "nobody without an address": (TINY, [NO_ADDRESS], []),
    "nobody who does not speak it": (TINY, [EMBED_PROTOCOL_ONLY], []),
    "who does not say what it speaks": (TINY, [SAYS_NO_PROTOCOLS], [SAYS_NO_PROTOCOLS]),
    "nobody who is full": (TINY, [FULL], []),
    "nobody who said so": (TINY, [SAID_FULL], []),
    "who has a slot left": (TINY, [FULL, SAID_FULL, HALF_FULL], [HALF_FULL]),
    "slots are for each model": (TINY, [BUSY_WITH_OTHERS], [BUSY_WITH_OTHERS]),
    "not those that cool": (TINY, [A, COOLING], [A]),
    "those that have cooled": (TINY, [A, COOLED], [A, COOLED]),
    "not those on trial": (TINY, [A, ON_TRIAL], [A]),
    "those that cool, when nobody else is there": (TINY, [COOLING, LARGE], [COOLING]),
    "the one that cools for the shortest time": (TINY, [COOLING_LONGER, COOLING], [COOLING]),
    "one that cools before one on trial": (TINY, [ON_TRIAL, COOLING_LONGER], [COOLING_LONGER]),
    "one on trial, when nobody else is there": (TINY, [ON_TRIAL, LARGE], [ON_TRIAL]),
    "a healthy one of another model does not count": (TINY, [COOLING, LARGE, EMBEDS], [COOLING]),
    "those that cool, when no healthy one can do it": (
        route_query_of(ask("tiny", logprobs=3)),
        [A, worker("rich, cooling", RICH.record.models[0], story=cooling)],
        [worker("rich, cooling")],
    ),
    "rather wait for a full one than ask one that cools": (TINY, [COOLING, ON_TRIAL, FULL], []),
    "not those of which nothing was heard for long": (TINY, [A, STALE], [A]),
    "those that were heard of since": (TINY, [A, HEARD], [A, HEARD]),
    "those of which nothing was heard, when nobody else has room": (TINY, [STALE, FULL, COOLING], [STALE]),
    "a new one with enough to do, when nobody else has room": (TINY, [NEW_WITH_ENOUGH, FULL, STALE], [NEW_WITH_ENOUGH]),
    "a new one has enough to do": (TINY, [NEW_WITH_ENOUGH, KNOWN_WITH_MORE], [KNOWN_WITH_MORE]),
    "a new one is not flooded, even when nobody else has room": (TINY, [NEW_AND_FLOODED, FULL], []),
    "one that was measured may have many": (TINY, [KNOWN_WITH_MORE], [KNOWN_WITH_MORE]),
}


def chosen(workers: Sequence[Worker], asked: RouteQuery = TINY, times: int = 40, **more: Any) -> set[str]:
    """Who is chosen, in many draws."""
    roster = Roster(workers)
    choices = [choose(roster, asked, NOW_S, random.Random(seed), **more) for seed in range(times)]
    return {choice.worker.peer_id for choice in choices if choice is not None}


def ids(workers: Sequence[Worker]) -> set[str]:
    return {worker.peer_id for worker in workers}


@pytest.mark.parametrize(("asked", "workers", "expected"), CHOSEN.values(), ids=CHOSEN)
def test_who_is_chosen(asked: RouteQuery, workers: list[Worker], expected: list[Worker]) -> None:
    assert chosen(workers, asked) == chosen(workers[::-1], asked) == ids(expected)


@pytest.mark.parametrize(("asked", "workers"), [case[:2] for case in CHOSEN.values()], ids=CHOSEN)
def test_who_failed_this_request_is_not_asked_again(asked: RouteQuery, workers: list[Worker]) -> None:
    for excluded in workers:
        assert excluded.peer_id not in chosen(workers, asked, times=10, exclude=(excluded.peer_id,))
    assert chosen(workers, asked, times=1, exclude=ids(workers)) == set()


def test_one_that_cools_is_asked_when_the_healthy_one_failed_this_request() -> None:
    assert chosen([A, COOLING], exclude=(A.peer_id,)) == ids([COOLING])


OBSTACLES: dict[str, tuple[RouteQuery, list[Worker], type[P2PNetError] | None, str | None]] = {
    "nobody": (TINY, [], None, None),
    "nobody runs it": (route_query_of(ask("unheard-of", n=2)), [A, LARGE], None, None),
    "nobody has this digest": (route_query_of(ask("tiny", digest=OTHER_DIGEST, n=2)), [A], None, None),
    "nobody can do it": (route_query_of(ask("tiny", n=2)), [A, RICH], FeatureMissing, "n"),
    "nobody reads text": (TINY, [BARE], FeatureMissing, "prompt"),
    "nobody can do one of two": (route_query_of(ask("tiny", logprobs=1, n=2)), [RICH, A], FeatureMissing, "n"),
    "each can do one of two": (
        route_query_of(ask("tiny", logprobs=1, response_format=JsonFormat())),
        [COUNTS, JSON_ONLY],
        FeatureMissing,
        "response_format",
    ),
    "no context is that long": (
        route_query_of(ask("tiny", max_tokens=4097)),
        [A, LONG],
        ContextOverflow,
        "max_tokens",
    ),
    "who has the context cannot do it": (
        route_query_of(ask("tiny", max_tokens=4096, response_format=JsonFormat())),
        [COUNTS, JSON_ONLY],
        ContextOverflow,
        "max_tokens",
    ),
    "nobody cuts vectors": (
        RouteQuery("tiny", "embed", features=frozenset({"dimensions", "text"})),
        [EMBEDS, A],
        FeatureMissing,
        "dimensions",
    ),
    "it makes vectors": (RouteQuery("tiny"), [EMBEDS], FeatureMissing, "model"),
    "it makes none": (RouteQuery("tiny", "embed"), [A], FeatureMissing, "model"),
    "it is not for what was asked that they cannot": (TINY, [NO_ADDRESS], None, None),
}


@pytest.mark.parametrize(("asked", "workers", "kind", "param"), OBSTACLES.values(), ids=OBSTACLES)
def test_why_nobody_is_able(
    asked: RouteQuery, workers: list[Worker], kind: type[P2PNetError] | None, param: str | None
) -> None:
    assert not is_served(Roster(workers), asked)
    error = obstacle(workers, asked)
    if kind is None:
        assert error is None
    else:
        assert isinstance(error, RequestError)
        assert (type(error), error.param) == (kind, param)


@pytest.mark.parametrize("busy", [FULL, SAID_FULL, COOLING, ON_TRIAL, STALE, NEW_AND_FLOODED])
def test_who_is_busy_or_failing_serves_the_model_all_the_same(busy: Worker) -> None:
    assert is_served(Roster([busy]), TINY)
    assert not is_served(Roster([busy]), route_query_of(ask("unheard-of")))


def known(first_token_s: float = 0.2, token_s: float = 0.01, in_flight: int = 0) -> Story:
    return measured(first_token_s, token_s, with_in_flight(in_flight))


def says(**load: Any) -> Story:
    def story(worker: Worker) -> None:
        worker.note_load(Load(**{"slots": 4, **load}), NOW_S - 10)

    return story


def said_and_sent(running: int, sent: int) -> Story:
    def story(worker: Worker) -> None:
        says(running=running)(worker)
        with_in_flight(sent)(worker)
        for _ in range(sent):
            worker.release(TINY_KEY)

    return story


def measured_ago(passed_s: float, token_s: float, then: Story | None = None) -> Story:
    def story(worker: Worker) -> None:
        tried(worker)
        worker.pace(TINY_KEY).first_token_s.note(0.2, NOW_S - passed_s)
        worker.pace(TINY_KEY).token_s.note(token_s, NOW_S - passed_s)
        if then is not None:
            then(worker)

    return story


def far(seconds: float, passed_s: float = 0.0) -> Story:
    def story(worker: Worker) -> None:
        known()(worker)
        worker.round_trip_s.note(seconds, NOW_S - passed_s)

    return story


def slow_by_record(worker: Worker) -> None:
    worker.note_load(Load(slots=4, decode_tokens_per_s=Measure(2.0, 1)), NOW_S - 10)


def fast_by_record(worker: Worker) -> None:
    tried(worker)
    worker.note_load(Load(slots=4, decode_tokens_per_s=Measure(1e12, 1)), NOW_S - 10)


def warmed_up(worker: Worker) -> None:
    tried(worker)
    worker.pace(TINY_KEY).first_token_s.note(0.2, NOW_S - 30)
    worker.pace(TINY_KEY).token_s.note(0.2, NOW_S - 30)


COLD = card("tiny", is_cold=True)

PAIRS: dict[str, tuple[Worker, Worker]] = {
    "idle before busy": (worker("a", slots=4, story=known()), worker("b", slots=4, story=known(in_flight=1))),
    "less busy before busier": (
        worker("a", slots=4, story=known(in_flight=2)),
        worker("b", slots=4, story=known(in_flight=3)),
    ),
    "more slots before fewer": (
        worker("a", slots=8, story=known(in_flight=2)),
        worker("b", slots=4, story=known(in_flight=2)),
    ),
    "busy in its record": (worker("a", slots=4, story=says(running=1)), worker("b", slots=4, story=says(running=2))),
    "what waits there counts": (worker("a", slots=4, story=says()), worker("b", slots=4, story=says(queued=1))),
    "what was sent since the record counts": (
        worker("a", slots=4, story=said_and_sent(running=1, sent=1)),
        worker("b", slots=4, story=said_and_sent(running=1, sent=2)),
    ),
    "fast before slow": (worker("a", story=known(token_s=0.01)), worker("b", story=known(token_s=0.02))),
    "fast and busy before slow and idle": (
        worker("a", slots=4, story=known(token_s=0.01, in_flight=2)),
        worker("b", slots=4, story=known(token_s=0.02)),
    ),
    "one that was slow long ago, and has had nothing to do since, before a busy one": (
        worker("a", slots=8, story=measured_ago(10 * FADE_S, token_s=0.05)),
        worker("b", slots=8, story=known(token_s=0.01, in_flight=2)),
    ),
    "one that was slow just now is not asked before a busy one": (
        worker("a", slots=8, story=known(token_s=0.01, in_flight=2)),
        worker("b", slots=8, story=measured_ago(FADE_S / 10, token_s=0.05)),
    ),
    "slow long ago is slow as long as something runs there": (
        worker("a", slots=8, story=known(token_s=0.01, in_flight=2)),
        worker("b", slots=8, story=measured_ago(10 * FADE_S, token_s=0.05, then=with_in_flight(1))),
    ),
    "what others took long ago is not usual": (
        worker("a", slots=8, story=known(token_s=0.01)),
        worker("b", slots=8, story=measured_ago(2 * FADE_S, token_s=0.05)),
    ),
    "a thousand slots do not make requests count for nothing": (
        worker("a", slots=1024, story=known(token_s=0.011)),
        worker("b", slots=1024, story=known(token_s=0.01, in_flight=16)),
    ),
    "near before far": (worker("a", story=far(0.01)), worker("b", story=far(0.3))),
    "one that was far long ago before a busy one": (
        worker("a", slots=4, story=far(9.0, passed_s=10 * FADE_S)),
        worker("b", slots=4, story=known(in_flight=1)),
    ),
    "says it is slow": (worker("a"), worker("b", story=slow_by_record)),
    "in memory before not": (worker("a", story=known(token_s=0.03)), worker("b", COLD)),
    "in memory by now": (worker("a", COLD, story=warmed_up), worker("b", card("tiny"), story=known(token_s=0.21))),
}


@pytest.mark.parametrize(("better", "worse"), PAIRS.values(), ids=PAIRS)
def test_of_two_the_better_one_is_taken(better: Worker, worse: Worker) -> None:
    assert chosen([better, worse]) == chosen([worse, better]) == ids([better])


EQUALS: dict[str, tuple[Worker, Worker]] = {
    "nothing is known of either": (A, B),
    "what is not measured is taken to be the same": (worker("a", story=known()), worker("b", story=tried)),
    "to say that one is fast changes nothing": (worker("a", story=known()), worker("b", story=fast_by_record)),
}


@pytest.mark.parametrize(("one", "other"), EQUALS.values(), ids=EQUALS)
def test_of_equals_each_has_its_share(one: Worker, other: Worker) -> None:
    counts = draws([one, other], times=400)
    assert all(150 < counts[each.peer_id] < 250 for each in (one, other))


def draws(workers: Sequence[Worker], times: int = 2000, asked: RouteQuery = TINY) -> Counter[str]:
    rng, roster = random.Random(1), Roster(workers)
    choices = [choose(roster, asked, NOW_S, rng) for _ in range(times)]
    return Counter(choice.worker.peer_id for choice in choices if choice is not None)


def test_a_choice_is_explained() -> None:
    busy = worker("b", slots=2, story=measured(0.4, 0.02, with_in_flight(1)))
    idle = worker("a", story=tried)
    choice = choose(Roster([idle, busy]), TINY, NOW_S, random.Random(1))
    assert choice is not None
    assert (choice.worker, choice.why) == (idle, "best of 2")
    by_id = {considered.worker: considered for considered in choice.considered}
    assert by_id.keys() == ids([idle, busy])
    about = by_id[busy.peer_id]
    assert (about.in_flight, about.pressure, about.slots, about.state) == (1, 1, 2, State.HEALTHY)
    assert (about.first_token_s, about.token_s, about.round_trip_s) == (0.4, 0.02, None)
    assert about.expected_s > by_id[idle.peer_id].expected_s > 0


@pytest.mark.parametrize(
    ("only", "why"),
    [
        (A, "best of 1"),
        (COOLING, "nobody better: cooling"),
        (STALE, "nobody better: stale"),
        (ON_TRIAL, "nobody better: on trial"),
        (NEW_WITH_ENOUGH, "nobody better: new"),
    ],
)
def test_it_says_why_the_only_one_was_taken(only: Worker, why: str) -> None:
    choice = choose(Roster([only]), TINY, NOW_S, random.Random(1))
    assert choice is not None
    assert choice.why == why


def test_the_same_draw_gives_the_same_choice() -> None:
    roster = Roster([worker(str(number)) for number in range(50)])
    seeded = [[choose(roster, TINY, NOW_S, random.Random(seed)) for seed in range(20)] for _ in range(2)]
    assert seeded[0] == seeded[1]
    assert len({choice.worker.peer_id for choice in seeded[0] if choice is not None}) > 10


def test_workers_are_sampled_in_proportion_to_their_slots() -> None:
    large, small = (
        [worker(f"large {n}", slots=12, story=tried) for n in range(20)],
        [worker(f"small {n}", slots=4, story=tried) for n in range(60)],
    )
    counts = draws([*large, *small], times=4000)
    assert sum(counts[each.peer_id] for each in large) == pytest.approx(2000, abs=150)
    assert len(counts) == 80


def test_to_claim_more_slots_than_anyone_has_brings_nothing() -> None:
    liar = worker("liar", slots=1 << 52)
    counts = draws([liar, *(worker(str(n), slots=64) for n in range(39))], times=4000)
    assert counts[liar.peer_id] == pytest.approx(100, abs=40)


def test_a_free_one_is_found_among_a_thousand_full() -> None:
    free = worker("free")
    assert chosen([*(worker(str(n), story=with_in_flight(1)) for n in range(1000)), free], times=3) == ids([free])


def test_gateways_with_the_same_stale_view_do_not_stampede() -> None:
    # Given many gateways that all see two idle workers among a hundred: they must not get everybody's request.
    idle = [worker(f"idle {n}", slots=4) for n in range(2)]
    counts = draws([*idle, *(worker(str(n), slots=4, story=says(running=2)) for n in range(98))], times=2000)
    assert sum(counts[each.peer_id] for each in idle) < 2000 * 0.2


def sends(roster: Roster, asked: RouteQuery, count: int, seed: int = 1) -> Counter[str]:
    """That many requests at once, of which none has ended."""
    rng, recent = random.Random(seed), RecentChoices()
    taken: Counter[str] = Counter()
    for _ in range(count):
        choice = choose(roster, asked, NOW_S, rng, recent=recent)
        assert choice is not None
        recent.note(asked.key, choice.worker)
        choice.worker.reserve(asked.key, NOW_S)
        taken[choice.worker.peer_id] += 1
    return taken


def test_requests_at_once_are_spread() -> None:
    workers = [worker(str(n), slots=4, story=known()) for n in range(100)]
    assert max(sends(Roster(workers), TINY, 100).values()) <= 2


@pytest.mark.parametrize("slots", [16, 64, 1024])
def test_equal_workers_get_equal_shares_although_one_was_slow_once(slots: int) -> None:
    """Given three equal workers, of which one had a slow moment some minutes ago and has had no request since."""
    equals = [worker(str(n), slots=slots, story=known(token_s=0.03 + 0.001 * n)) for n in range(2)]
    once_slow = worker("once slow", slots=slots, story=measured_ago(3 * FADE_S, token_s=0.06))
    roster = Roster([*equals, once_slow])
    assert sends(roster, TINY, 12)[once_slow.peer_id] == 1, "it is tried"
    once_slow.pace(TINY_KEY).token_s.note(0.03, NOW_S)
    sends(roster, TINY, 27)
    assert [each.in_flight for each in (*equals, once_slow)] == pytest.approx([13] * 3, abs=3)


def test_a_new_worker_gets_requests_at_once_but_no_flood() -> None:
    new = worker("new", slots=64)
    olds = [worker(str(n), slots=64, story=known(token_s=0.5)) for n in range(3)]
    taken = sends(Roster([new, *olds]), TINY, 50)
    assert taken[new.peer_id] == 1


KNOWN_BEGINNING = RouteQuery("tiny", affinity=BEGINNING)


def test_the_same_beginning_goes_to_the_same_worker() -> None:
    workers = [worker(str(n), slots=4, story=known()) for n in range(200)]
    for seed in range(20):
        beginning = random.Random(seed).randbytes(16)
        assert len(draws(workers, 20, RouteQuery("tiny", affinity=beginning))) == 1
    assert len(draws(workers, 200)) > 50


def homes(workers: Sequence[Worker], beginnings: Sequence[bytes]) -> dict[bytes, str]:
    roster, rng = Roster(workers), random.Random(1)
    found = {b: choose(roster, RouteQuery("tiny", affinity=b), NOW_S, rng) for b in beginnings}
    return {beginning: choice.worker.peer_id for beginning, choice in found.items() if choice is not None}


def test_most_beginnings_stay_where_they_are_when_workers_come_and_go() -> None:
    workers = [worker(str(n), slots=4, story=known()) for n in range(100)]
    beginnings = [random.Random(seed).randbytes(16) for seed in range(500)]
    before = homes(workers, beginnings)
    after = homes([*workers[10:], *(worker(f"new {n}", slots=4, story=known()) for n in range(10))], beginnings)
    gone = ids(workers[:10])
    moved = [b for b in beginnings if before[b] not in gone and before[b] != after[b]]
    assert len(moved) < 0.2 * len(beginnings)
    assert max(Counter(before.values()).values()) < 25


def test_a_popular_beginning_overruns_nobody() -> None:
    workers = [worker(str(n), slots=8, story=known()) for n in range(40)]
    taken = sends(Roster(workers), KNOWN_BEGINNING, 40)
    assert taken.most_common(1)[0][1] <= 4


def slowed_down(worker: Worker) -> None:
    worker.pace(TINY_KEY).token_s.note(0.05, NOW_S)


def filled(worker: Worker) -> None:
    with_in_flight(worker.slots)(worker)


GIVES_WAY: dict[str, tuple[Story, bool]] = {
    "nothing happened": (known(), True),
    "it is a little busier": (known(in_flight=1), True),
    "it is full": (filled, False),
    "it said that it is full": (has_said_full, False),
    "it cools": (cooling, False),
    "it was not heard of": (stale, False),
    "it is much slower than others": (slowed_down, False),
}


@pytest.mark.parametrize(("story", "stays"), GIVES_WAY.values(), ids=GIVES_WAY)
def test_a_known_beginning_gives_way(story: Story, stays: bool) -> None:
    workers = [worker(str(n), slots=16, story=known(in_flight=8)) for n in range(20)]
    home = homes(workers, [BEGINNING])[BEGINNING]
    story(next(each for each in workers if each.peer_id == home))
    assert (home in draws(workers, 50, KNOWN_BEGINNING)) == stays


def test_the_next_in_turn_takes_over_a_beginning() -> None:
    workers = [worker(str(n), slots=4, story=known()) for n in range(60)]
    filled(next(each for each in workers if each.peer_id == homes(workers, [BEGINNING])[BEGINNING]))
    assert len(draws(workers, 50, KNOWN_BEGINNING)) == 1


def test_varied_requests_leave_no_traces() -> None:
    roster, rng = Roster([A, LONG]), random.Random(1)
    for length in range(1, 5000):
        choose(roster, RouteQuery("tiny", max_tokens=length), NOW_S, rng)
    assert len(roster._able) <= 3
    for number in range(1000):
        assert choose(roster, RouteQuery("tiny", digest=f"sha256:{number:064}"), NOW_S, rng) is None
        assert choose(roster, RouteQuery(f"model-{number}"), NOW_S, rng) is None
    assert len(roster._able) <= MAX_VARIETIES


STORIES = [
    known(),
    cooling,
    cooled,
    cooling_for_longer,
    on_trial,
    stale,
    has_said_full,
    with_in_flight(1),
    says(running=3),
]
CARDS = [
    card("tiny"),
    card("large"),
    card("tiny", features=("text", "n"), context_length=64),
    card("tiny", task="embed"),
]


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_nobody_is_chosen_who_cannot(data: st.DataObject) -> None:
    workers = [
        worker(
            str(number),
            data.draw(st.sampled_from(CARDS)),
            story=data.draw(st.sampled_from(STORIES)),
            slots=data.draw(st.integers(1, 4)),
            addresses=data.draw(st.sampled_from([(), ("/ip4/203.0.113.7/tcp/1",)])),
        )
        for number in range(data.draw(st.integers(0, 40)))
    ]
    asked = RouteQuery(
        "tiny",
        features=frozenset(data.draw(st.sets(st.sampled_from(["text", "n"])))),
        max_tokens=data.draw(st.sampled_from([None, 64, 65])),
        affinity=data.draw(st.sampled_from([None, BEGINNING])),
    )
    excluded = data.draw(st.sets(st.sampled_from(sorted(ids(workers))))) if workers else set()
    choice = choose(Roster(workers), asked, NOW_S, random.Random(data.draw(st.integers(0, 9))), excluded)
    able = [each for each in workers if is_served(Roster([each]), asked) and each.peer_id not in excluded]
    free = [each for each in able if each.has_room(asked.key, NOW_S)]
    fit = [each for each in able if each.health.may_take(NOW_S)]
    if choice is None:
        assert not free or (fit and not any(each in free for each in fit))
    else:
        assert choice.worker in free
        assert choice.worker.peer_id in {considered.worker for considered in choice.considered}
        assert choice.worker in fit or not fit
