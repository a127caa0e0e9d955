"""Routing: who may serve, as a table; in which order, as properties of many draws."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from gateway.routing import Candidate, eligible, obstacle, rank
from p2pnet.errors import ContextOverflow, FeatureMissing, P2PNetError, RequestError
from p2pnet.messages import GenerateRequest, JsonFormat
from p2pnet.records import ModelCard
from tests.stories import DIGEST, ask, capability, card, peer

NOW_S = 1000.0
OTHER_DIGEST = "sha256:" + "cd" * 32


def candidate(
    name: str, *cards: ModelCard, in_flight: int = 0, cooling_until_s: float = 0.0, slots: int = 1
) -> Candidate:
    record = msgspec.structs.replace(capability(peer(name)), models=cards or (card("tiny"),), slots=slots)
    return Candidate(record, in_flight, cooling_until_s)


A, B, C = (candidate(name) for name in "abc")
LARGE = candidate("large", card("large"))
BOTH = candidate("both", card("large"), card("tiny"))
OTHER_WEIGHTS = candidate("other weights", card("tiny", digest=OTHER_DIGEST))
EMBEDS = candidate("embeds", card("tiny", task="embed"))
EMBEDS_TOO = candidate("embeds too", card("tiny", task="embed"), card("large"))
NOTHING = Candidate(msgspec.structs.replace(capability(peer("nothing")), models=()))
COOLING = candidate("cooling", cooling_until_s=NOW_S + 0.1)
COOLED = candidate("cooled", cooling_until_s=NOW_S)
FULL = candidate("full", in_flight=100)
RICH = candidate("rich", card("tiny", features=("text", "chat", "logprobs", "json")))
COUNTS = candidate("counts", card("tiny", features=("text", "logprobs"), context_length=4096))
JSON_ONLY = candidate("json only", card("tiny", features=("text", "json")))
BARE = candidate("bare", card("tiny", features=()))
LONG = candidate("long", card("tiny", context_length=4096))

TINY = ask("tiny")

ELIGIBLE: dict[str, tuple[GenerateRequest, list[Candidate], list[Candidate]]] = {
    "nobody": (TINY, [], []),
    "all that run it": (TINY, [A, B, C], [A, B, C]),
    "not those that run something else": (TINY, [A, LARGE, BOTH, NOTHING], [A, BOTH]),
    "nobody runs it": (ask("unheard-of"), [A, LARGE, BOTH], []),
    "names are exact": (ask("Tiny"), [A], []),
    "any digest": (TINY, [A, OTHER_WEIGHTS], [A, OTHER_WEIGHTS]),
    "this digest": (ask("tiny", digest=DIGEST), [A, OTHER_WEIGHTS], [A]),
    "the other digest": (ask("tiny", digest=OTHER_DIGEST), [A, OTHER_WEIGHTS], [OTHER_WEIGHTS]),
    "a digest that nobody has": (ask("tiny", digest="sha256:" + "0" * 64), [A, OTHER_WEIGHTS], []),
    "the digest of another model": (ask("large", digest=OTHER_DIGEST), [BOTH, OTHER_WEIGHTS], []),
    "an embedding model generates nothing": (TINY, [EMBEDS, A], [A]),
    "only embeddings under this name": (TINY, [EMBEDS_TOO], []),
    "not those that cool": (TINY, [A, COOLING], [A]),
    "those that have cooled": (TINY, [A, COOLED], [A, COOLED]),
    "those that cool, when nobody else is there": (TINY, [COOLING, LARGE], [COOLING]),
    "a healthy one of another model does not count": (TINY, [COOLING, LARGE, EMBEDS], [COOLING]),
    "a full one is asked: it knows best": (TINY, [FULL], [FULL]),
    "those that can do it": (ask("tiny", logprobs=3), [A, RICH, COUNTS], [RICH, COUNTS]),
    "those that can do all of it": (
        ask("tiny", logprobs=3, response_format=JsonFormat()),
        [A, COUNTS, JSON_ONLY, RICH],
        [RICH],
    ),
    "nobody can do it": (ask("tiny", n=2), [A, RICH, COUNTS], []),
    "plain text needs text": (TINY, [BARE, A], [A]),
    "a feature of another model does not count": (
        ask("tiny", logprobs=3),
        [candidate("two", card("tiny"), card("large", features=("text", "logprobs")))],
        [],
    ),
    "those that cool, when no healthy one can do it": (
        ask("tiny", logprobs=3),
        [A, Candidate(RICH.record, cooling_until_s=NOW_S + 1)],
        [Candidate(RICH.record, cooling_until_s=NOW_S + 1)],
    ),
    "as long as the context": (ask("tiny", max_tokens=512), [A, LONG], [A, LONG]),
    "not those whose context is shorter than the answer": (ask("tiny", max_tokens=513), [A, LONG], [LONG]),
}


@pytest.mark.parametrize(("request_", "candidates", "expected"), ELIGIBLE.values(), ids=ELIGIBLE)
def test_eligible(request_: GenerateRequest, candidates: list[Candidate], expected: list[Candidate]) -> None:
    assert eligible(candidates, request_, NOW_S) == expected
    assert eligible(iter(candidates), request_, NOW_S) == expected


OBSTACLES: dict[str, tuple[GenerateRequest, list[Candidate], type[P2PNetError] | None, str | None]] = {
    "nobody": (TINY, [], None, None),
    "nobody runs it": (ask("unheard-of", n=2), [A, LARGE], None, None),
    "nobody has this digest": (ask("tiny", digest=OTHER_DIGEST, n=2), [A], None, None),
    "nobody can do it": (ask("tiny", n=2), [A, RICH], FeatureMissing, "n"),
    "nobody reads text": (TINY, [BARE], FeatureMissing, "prompt"),
    "nobody can do one of two": (ask("tiny", logprobs=1, n=2), [RICH, A], FeatureMissing, "n"),
    "each can do one of two": (
        ask("tiny", logprobs=1, response_format=JsonFormat()),
        [COUNTS, JSON_ONLY],
        FeatureMissing,
        "response_format",
    ),
    "no context is that long": (ask("tiny", max_tokens=4097), [A, LONG], ContextOverflow, "max_tokens"),
    "who has the context cannot do it": (
        ask("tiny", max_tokens=4096, response_format=JsonFormat()),
        [COUNTS, JSON_ONLY],
        ContextOverflow,
        "max_tokens",
    ),
}


@pytest.mark.parametrize(("request_", "candidates", "kind", "param"), OBSTACLES.values(), ids=OBSTACLES)
def test_why_nobody_is_eligible(
    request_: GenerateRequest, candidates: list[Candidate], kind: type[P2PNetError] | None, param: str | None
) -> None:
    assert eligible(candidates, request_, NOW_S) == []
    error = obstacle(candidates, request_)
    if kind is None:
        assert error is None
    else:
        assert isinstance(error, RequestError)
        assert (type(error), error.param) == (kind, param)


def draws(candidates: list[Candidate], times: int = 2000, seed: int = 1) -> Counter[str]:
    """How often each is tried first."""
    rng = random.Random(seed)
    return Counter(rank(candidates, rng)[0].peer_id for _ in range(times))


def test_nobody_in_no_order() -> None:
    assert rank([], random.Random(1)) == []
    assert rank([A], random.Random(1)) == [A]


def test_everybody_is_tried_once() -> None:
    candidates = [candidate(str(number), in_flight=number % 4) for number in range(30)]
    before = list(candidates)
    for seed in range(20):
        order = rank(candidates, random.Random(seed))
        assert sorted(order, key=candidates.index) == candidates == before


def test_the_same_draw_gives_the_same_order() -> None:
    candidates = [candidate(str(number)) for number in range(10)]
    assert rank(candidates, random.Random(3)) == rank(candidates, random.Random(3))
    assert len({tuple(c.peer_id for c in rank(candidates, random.Random(seed))) for seed in range(20)}) == 20


PAIRS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("idle before busy", {"in_flight": 0}, {"in_flight": 1}),
    ("less busy before busier", {"in_flight": 3}, {"in_flight": 4}),
    ("more places before fewer", {"in_flight": 2, "slots": 8}, {"in_flight": 2, "slots": 4}),
    ("by share of places, not by number", {"in_flight": 3, "slots": 8}, {"in_flight": 1, "slots": 1}),
    (
        "places of further models are no further machine",
        {"in_flight": 2, "slots": 8},
        {"in_flight": 3, "slots": 16, "cards": (card("tiny"), card("large"))},
    ),
    ("a worker that claims no places counts as one of one", {"in_flight": 0, "slots": 1}, {"in_flight": 1, "slots": 0}),
]


@pytest.mark.parametrize(("first", "second"), [pair[1:] for pair in PAIRS], ids=[pair[0] for pair in PAIRS])
def test_of_two_the_less_busy_goes_first(first: dict[str, Any], second: dict[str, Any]) -> None:
    better, worse = (
        candidate(name, *fields.get("cards", ()), **{key: fields[key] for key in fields if key != "cards"})
        for name, fields in (("better", first), ("worse", second))
    )
    for seed in range(20):
        assert rank([better, worse], random.Random(seed)) == [better, worse]
        assert rank([worse, better], random.Random(seed)) == [better, worse]


def test_equals_are_tried_equally_often() -> None:
    counts = draws([candidate(str(number)) for number in range(5)], times=5000)
    assert len(counts) == 5
    assert all(850 < count < 1150 for count in counts.values())


def test_the_busiest_is_never_first_and_the_idlest_wins_each_pair() -> None:
    candidates = [candidate(str(number), in_flight=number) for number in range(5)]
    counts = draws(candidates, times=5000)
    # Of n, the k-th idlest wins the pairs in which it is the idler one: 2 (n - k) / (n (n - 1)).
    for k, each in enumerate(candidates, start=1):
        assert counts[each.peer_id] == pytest.approx(5000 * 2 * (5 - k) / 20, abs=150)


def test_two_choices_spread_requests_far_better_than_one() -> None:
    # Mitzenmacher 2001: n requests on n workers load the fullest with ln ln n / ln 2, not ln n / ln ln n.
    names = [str(number) for number in range(200)]
    in_flight, at_random, rng = Counter[str](), Counter[str](), random.Random(9)
    records = {name: candidate(name).record for name in names}
    name_of = {record.peer_id: name for name, record in records.items()}
    for _ in range(200):
        order = rank([Candidate(records[name], in_flight[name]) for name in names], rng)
        in_flight[name_of[order[0].peer_id]] += 1
        at_random[rng.choice(names)] += 1
    assert max(in_flight.values()) <= 3
    assert max(at_random.values()) >= 4


def test_gateways_with_the_same_stale_view_do_not_stampede() -> None:
    # Given many gateways that all see one idle worker among ten: it must not get everybody's request.
    candidates = [candidate("idle"), *(candidate(str(number), in_flight=1) for number in range(9))]
    assert draws(candidates, times=3000)[candidates[0].peer_id] == pytest.approx(600, abs=90)
