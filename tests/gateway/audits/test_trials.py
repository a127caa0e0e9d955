"""Trials of auditors, who is drawn as one, and the prompts of a gateway's own making: as tables, without a network."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest

from gateway.audits.auditors import MAX_LOOKED_AT, Auditors
from gateway.audits.canaries import canary
from gateway.audits.evidence import EXACT
from gateway.audits.trials import (
    MAX_KNOWN,
    MAX_KNOWN_BYTES,
    MAX_KNOWN_MODELS,
    MAX_MISSES,
    SPOILED_IDS,
    AuditorRecord,
    KnownAnswer,
    KnownAnswers,
    spoiled,
)
from gateway.audits.verdicts import Voice
from gateway.membership.table import PeerTable
from gateway.peers.worker import Worker
from p2pnet.directory import Directory, validator
from p2pnet.messages import ChatPrompt, TextPrompt
from p2pnet.network.memory import MemoryWorld
from p2pnet.score_messages import ScoreRequest
from p2pnet.wire.exchange import SCORE_PROTOCOL, STATUS_PROTOCOL
from tests.stories import DIGEST, ManualClock, ask, capability, card, peer

KEY = ("tiny", "generate")
ABLE = card(features=("chat", "text", "score"), sampler="gumbel-1")


def voice(name: str) -> Voice:
    return Voice(name, frozenset({f"subnet of {name}"}))


def request(*token_ids: int, text: str = "one", model: str = "tiny") -> ScoreRequest:
    return ScoreRequest(ask(model, text, digest=DIGEST, sampler="gumbel-1"), token_ids, "stop")


@pytest.mark.parametrize(
    ("token_ids", "ids", "changes"),
    [
        (tuple(range(100)), range(100, 110), SPOILED_IDS),
        ((1, 2, 3), (7,), 3),
        ((1, 2, 3), (1, 2, 3), 3),
        ((1, 1, 1), (1,), 0),
        ((), (7,), 0),
    ],
)
def test_a_spoiled_answer_differs_where_it_says_and_nowhere_else(
    token_ids: tuple[int, ...], ids: Sequence[int], changes: int
) -> None:
    whole = request(*token_ids)
    made, changed = spoiled(whole, ids, random.Random(3))
    differing = tuple(index for index, each in enumerate(made.token_ids) if each != token_ids[index])
    assert differing == changed and len(changed) == changes
    assert msgspec.structs.replace(made, token_ids=token_ids) == whole
    assert set(made.token_ids) <= {*token_ids, *ids}


@pytest.mark.parametrize(
    ("margins", "is_miss"),
    [([0.5, 0.5], False), ([0.5, 0.0], False), ([0.01, 0.01], False), ([0.0, 0.0], True), ([0.001, 0.001], True)],
)
def test_who_finds_nothing_wrong_with_what_is_spoiled_has_missed_it(margins: list[float], is_miss: bool) -> None:
    record = AuditorRecord()
    record.note_spoiled([0.5, *margins], (1, 2), EXACT)
    assert record.misses == is_miss
    for _ in range(MAX_MISSES):
        record.note_spoiled([0.5, *margins], (1, 2), EXACT)
    assert record.is_liar == is_miss


@pytest.mark.parametrize(
    ("statements", "is_liar"),
    [
        ([], False),
        ([("ann", 50.0)], False),
        ([("ann", 50.0), ("ann", 50.0)], False),
        ([("ann", 50.0), ("bob", 50.0)], True),
        ([("ann", 50.0), ("bob", 1.0)], False),
        ([("ann", -1.0), ("bob", -1.0)] * 100, False),
    ],
)
def test_who_calls_the_good_answers_of_two_bad_is_a_liar(statements: list[tuple[str, float]], is_liar: bool) -> None:
    record = AuditorRecord()
    for giver, log_likelihood in statements:
        record.note_good(giver, log_likelihood, 20)
    assert record.is_liar == is_liar


def test_an_answer_is_good_once_two_say_so_that_share_no_subnet() -> None:
    known, answer = KnownAnswers(), KnownAnswer(request(1, 2), voice("giver"), [voice("ann")])
    known.add(KEY, answer)
    known.confirm(KEY, answer, Voice("neighbour", voice("ann").subnets))
    assert not answer.is_confirmed
    known.confirm(KEY, answer, voice("bob"))
    assert answer.is_confirmed
    fit = {name: bool(known.fit_for(voice(name), KEY, answer.request)) for name in ("giver", "ann", "bob", "cat")}
    assert fit == {"giver": False, "ann": False, "bob": False, "cat": True}
    known.discard("bob")
    assert not known.fit_for(voice("cat"), KEY, answer.request)


def test_what_is_known_is_bounded_and_good_answers_are_not_pushed_out_by_others() -> None:
    known, good = KnownAnswers(), KnownAnswer(request(1, 2), voice("giver"), [voice("ann")])
    known.add(KEY, good)
    known.confirm(KEY, good, voice("bob"))
    for number in range(100):
        known.add(KEY, KnownAnswer(request(number), voice("giver"), [voice("ann")]))
    assert good in known.fit_for(voice("cat"), KEY, good.request)
    assert len(known.fit_for(voice("cat"), KEY, good.request)) == 1 + MAX_KNOWN
    large = KnownAnswer(request(1, text="x" * MAX_KNOWN_BYTES), voice("giver"), [voice("ann")])
    known.add(KEY, large)
    assert large not in known.fit_for(voice("cat"), KEY, good.request)
    for number in range(MAX_KNOWN_MODELS):
        known.add((f"model-{number}", "generate"), KnownAnswer(request(1), voice("giver"), [voice("ann")]))
    assert not known.fit_for(voice("cat"), KEY, good.request)


def worker(name: str, subnet: str, is_tried: bool = True, **changes: object) -> Worker:
    identity = peer(name)
    record = capability(
        identity,
        models=(msgspec.structs.replace(ABLE, **changes),),
        addresses=(f"/ip4/{subnet}.7/tcp/1/p2p/{identity.peer_id}",),
        protocols=(STATUS_PROTOCOL, SCORE_PROTOCOL),
        slots=8,
    )
    made = Worker(record)
    made.health.has_served = is_tried
    return made


def auditors(workers: Sequence[Worker], trusted: Sequence[str] = (), is_full: bool = False, seed: int = 1) -> Auditors:
    clock = ManualClock()
    world = MemoryWorld(validator(clock))
    table = PeerTable(Directory(world.join(peer("gateway").peer_id), clock), now_s=lambda: 0.0)
    for each in workers:
        table._use(each)
    table._rebuild()
    names = [peer(name).peer_id for name in trusted]
    return Auditors(table, names, lambda model: is_full, random.Random(seed), lambda: 0.0)


GIVER = worker("giver", "8.8.1")
NEAR = worker("near", "8.8.1")
FAR = worker("far", "8.8.2")
FARTHER = worker("farther", "8.8.3")
STRANGER = worker("stranger", "8.8.4", is_tried=False)
OTHER_DIGEST = worker("other digest", "8.8.5", digest="sha256:" + "0" * 64)
OTHER_SAMPLER = worker("other sampler", "8.8.6", sampler="gumbel-2")
CANNOT = worker("cannot", "8.8.7", features=("chat", "text"))
ALL = [GIVER, NEAR, FAR, FARTHER, STRANGER, OTHER_DIGEST, OTHER_SAMPLER, CANNOT]


@pytest.mark.parametrize(
    ("workers", "trusted", "only_trusted", "able"),
    [
        (ALL, (), False, [FAR, FARTHER]),
        ([GIVER, NEAR], (), False, []),
        ([GIVER, STRANGER], (), False, [STRANGER]),
        (ALL, ("near",), False, [NEAR]),
        (ALL, ("near",), True, [NEAR]),
        (ALL, (), True, []),
        (ALL, ("giver",), True, []),
        (ALL, ("cannot",), True, []),
    ],
)
def test_who_may_be_drawn(workers: list[Worker], trusted: list[str], only_trusted: bool, able: list[Worker]) -> None:
    found = auditors(workers, trusted).able(GIVER, ABLE, only_trusted)
    assert {each.peer_id for each in found} == {each.peer_id for each in able}


def test_nobody_is_drawn_while_clients_wait() -> None:
    assert auditors(ALL, is_full=True).able(GIVER, ABLE) == []


def test_a_thousand_identities_of_one_subnet_are_drawn_as_often_as_one() -> None:
    crowd = [worker(f"crowd {number}", "8.8.9") for number in range(60)]
    drawn = Counter(
        auditors([GIVER, FAR, *crowd], seed=seed).able(GIVER, ABLE)[0].peer_id == FAR.peer_id for seed in range(60)
    )
    assert 20 <= drawn[True] <= 40, drawn


def test_a_large_network_is_looked_at_in_part_and_who_is_named_is_among_them() -> None:
    crowd = [worker(f"crowd {number}", f"8.{number // 200 + 9}.{number % 200}") for number in range(400)]
    found = auditors([GIVER, FAR, *crowd]).able(GIVER, ABLE, named=[FAR.peer_id])
    assert found[0] is FAR and MAX_LOOKED_AT // 2 <= len(found) <= MAX_LOOKED_AT + 2


@pytest.mark.parametrize(("features", "kind"), [(("chat", "text"), ChatPrompt), (("text",), TextPrompt)])
def test_canaries_are_of_many_kinds_and_fit_the_model(features: tuple[str, ...], kind: type[object]) -> None:
    rng = random.Random(1)
    made = [canary(card(features=features, context_length=256), rng) for _ in range(500)]
    assert {type(each.prompt) for each in made} == {kind}
    assert len({str(each.prompt) for each in made}) > 300
    assert len({each.sampling.seed for each in made}) == len({each.request_id for each in made}) == 500
    assert len({each.sampling.temperature for each in made}) > 3
    assert all(each.max_tokens is not None and each.max_tokens <= 64 for each in made)
