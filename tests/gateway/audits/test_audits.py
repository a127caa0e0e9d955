"""Stories of a gateway that audits: honest workers, auditors that lie, whose prompts are shown, and what follows."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import pytest

from gateway.audits.audits import CANARY_SPREAD_S, KEPT_S, MAX_KEPT, MAX_UNDER_WAY
from gateway.audits.comparing import are_alike
from gateway.audits.given import MAX_POSITIONS, Given
from gateway.audits.modes import AuditMode
from gateway.audits.verdicts import CANNOT_SCORE_TIMES
from gateway.interface import Caller
from gateway.peers.flags import CANNOT_SCORE, FLAGGED_S, UNLIKE, Flag
from gateway.peers.health import State
from p2pnet.errors import Busy, ModelNotFound, NoWorker
from p2pnet.messages import (
    Accepted,
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    Load,
    Prompt,
    Sampling,
    TextDelta,
    TextPrompt,
    TokenPrompt,
    Usage,
    choice_seed,
)
from p2pnet.network.interface import Stream
from p2pnet.score_messages import Scored, ScoreRequest, text_hash
from p2pnet.wire.codec import encode_frame
from tests.gateway.audits.audited_swarm import (
    DIGEST,
    MODEL,
    SAMPLER,
    Answer,
    Give,
    Say,
    accuses_all,
    audited_swarm,
    honest_answer,
    honest_scores,
    passes_all,
    said,
)
from tests.gateway.audits.test_cheats import other_model
from tests.stories import ask, peer, settle

Said = Sequence[Accepted | Scored | Finished | Failed]


async def test_an_honest_worker_is_never_flagged_over_two_thousand_requests() -> None:
    async with audited_swarm() as swarm:
        worker = await swarm.join("worker")
        auditors = [await swarm.join(f"auditor {number}", features=("score",)) for number in range(3)]
        highest = float("-inf")
        for _ in range(2_000):
            await swarm.ask(worker, max_tokens=8)
            highest = max(highest, swarm.audits.judge.cases.of(worker.peer_id, DIGEST).evidence.log_e)
        assert len(worker.requests) == 2_000 and not len(swarm.peers.flags)
        assert highest < 0, f"the evidence came to {highest} nats"
        looks = sum(len(auditor.looks) for auditor in auditors)
        assert 200 <= looks <= 1_200, f"{looks} looks: all of the first answers, and few of the last"


async def test_a_worker_that_is_honest_for_long_and_then_cheats_is_flagged() -> None:
    cheats = False

    def turning(request: GenerateRequest) -> Answer:
        return other_model(request) if cheats else honest_answer(request)

    async with audited_swarm() as swarm:
        worker = await swarm.join("worker", turning)
        await swarm.join("auditor 1")
        await swarm.join("auditor 2")
        for _ in range(300):
            await swarm.ask(worker)
        before = swarm.audits.judge.cases.of(worker.peer_id, DIGEST).evidence.positions
        cheats = True
        tokens = await swarm.tokens_until_flagged(worker)
        assert tokens - before <= 250, f"it took {tokens - before} tokens"


@pytest.mark.parametrize("trusted", [False, True])
async def test_one_auditor_alone_convicts_nobody_unless_it_is_trusted(trusted: bool) -> None:
    names = frozenset({peer("accuser").peer_id}) if trusted else frozenset[str]()
    async with audited_swarm(trusted=names) as swarm:
        worker = await swarm.join("worker")
        accuser = await swarm.join("accuser", say=accuses_all)
        for _ in range(20):
            await swarm.ask(worker)
        flag = swarm.flag_of(worker)
        assert (flag is not None) == trusted
        if flag is not None:
            assert (flag.reason, flag.accusers, flag.is_by_trusted) == (UNLIKE, (accuser.peer_id,), True)


async def test_two_auditors_of_one_subnet_count_as_one() -> None:
    async with audited_swarm() as swarm:
        worker = await swarm.join("worker")
        await swarm.join("accuser 1", say=accuses_all, subnet=77)
        await swarm.join("accuser 2", say=accuses_all, subnet=77)
        for _ in range(30):
            await swarm.ask(worker)
        assert swarm.flag_of(worker) is None
        assert swarm.audits.judge.cases.of(worker.peer_id, DIGEST).is_suspected


async def test_a_neighbour_of_the_worker_does_not_audit_it() -> None:
    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", other_model, subnet=77)
        neighbour = await swarm.join("neighbour", say=passes_all, subnet=77)
        for _ in range(5):
            await swarm.ask(cheat)
        assert not neighbour.looks


async def test_a_liar_among_auditors_accuses_in_vain_and_is_found_out() -> None:
    """It is tried with answers that two others have found good, and loses its part."""
    async with audited_swarm() as swarm:
        workers = [await swarm.join(f"worker {number}") for number in range(4)]
        liar = await swarm.join("liar", say=accuses_all)
        for number in range(600):
            await swarm.ask(workers[number % 4], max_tokens=8)
            if swarm.audits.auditors.record_of(liar.peer_id).is_liar:
                break
        assert swarm.audits.auditors.record_of(liar.peer_id).is_liar, swarm.audits.judge.counts
        assert not len(swarm.peers.flags)
        looks = len(liar.looks)
        for number in range(40):
            await swarm.ask(workers[number % 4], max_tokens=8)
        assert len(liar.looks) == looks, "a liar was asked again"
        suspected = [swarm.audits.judge.cases.of(worker.peer_id, DIGEST).is_suspected for worker in workers]
        assert not any(suspected), "what a liar has said still counts"


async def test_an_auditor_that_passes_whatever_it_is_shown_is_found_out_by_spoiled_answers() -> None:
    async with audited_swarm() as swarm:
        workers = [await swarm.join(f"worker {number}") for number in range(3)]
        lazy = await swarm.join("lazy", say=passes_all)
        for number in range(600):
            await swarm.ask(workers[number % 3], max_tokens=8)
            if swarm.audits.auditors.record_of(lazy.peer_id).is_liar:
                break
        assert swarm.audits.auditors.record_of(lazy.peer_id).is_liar, swarm.audits.judge.counts
        assert not any(swarm.audits.auditors.record_of(worker.peer_id).is_liar for worker in workers)


async def test_a_friend_that_passes_a_cheat_does_not_save_it() -> None:
    """It is one of five, and its turn as an auditor ends."""
    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", other_model)
        await swarm.join("friend", say=passes_all)
        for number in range(4):
            await swarm.join(f"auditor {number}")
        tokens = await swarm.tokens_until_flagged(cheat)
        assert tokens <= 5_000, f"it took {tokens} tokens"


def is_busy(request: ScoreRequest) -> Said:
    return (Failed("busy", "later"),)


@pytest.mark.parametrize("say", [passes_all, is_busy])
async def test_friends_of_a_cheat_do_not_keep_the_places_of_its_auditors(say: Say) -> None:
    """Neither by finding nothing nor by never having time, though half of all auditors are friends."""
    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", other_model)
        for number in range(4):
            await swarm.join(f"friend {number}", say=say, features=("score",))
            await swarm.join(f"auditor {number}", features=("score",))
        await swarm.tokens_until_flagged(cheat, 600)
        assert len(swarm.peers.flags) == 1


async def test_a_friend_that_says_it_is_full_is_passed_over() -> None:
    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", other_model)
        for number in range(4):
            await swarm.join(f"friend {number}", say=passes_all, features=("score",))
            swarm.known(peer(f"friend {number}").peer_id).note_load(Load(running=64, slots=64), 0.0)
        for number in range(2):
            await swarm.join(f"auditor {number}", features=("score",))
        assert await swarm.tokens_until_flagged(cheat, 20) <= 150


def refuses(request: ScoreRequest) -> Said:
    return (Failed("worker_failed", "no"),)


def lies_in_shape(request: ScoreRequest) -> Said:
    return said([0.0] * (len(request.token_ids) + 1), None)


def is_no_number(request: ScoreRequest) -> Said:
    return Accepted(3), Scored(b"\x00\x00\xc0\x7f" * len(request.token_ids)), Finished("stop", Usage(3, 0))


def says_nothing(request: ScoreRequest) -> Said:
    return ()


@pytest.mark.parametrize("say", [refuses, lies_in_shape, is_no_number, says_nothing])
async def test_who_cannot_look_at_what_others_of_its_digest_can_is_not_of_it(say: Say) -> None:
    async with audited_swarm() as swarm:
        unable = await swarm.join("unable", say=say)
        workers = [await swarm.join(f"worker {number}") for number in range(3)]
        for number in range(200):
            await swarm.ask(workers[number % 3])
            if swarm.flag_of(unable) is not None:
                break
        flag = swarm.flag_of(unable)
        assert flag is not None and flag.reason == CANNOT_SCORE
        assert len(unable.looks) >= CANNOT_SCORE_TIMES
        assert len(swarm.peers.flags) == 1


async def test_an_answer_that_nobody_can_look_at_is_nobodys_fault_but_its_givers() -> None:
    """Ids that the model does not have are refused by all, and count as a wrong token."""

    def beyond_the_vocabulary(request: GenerateRequest) -> Answer:
        return Answer((*honest_answer(request).ids[:-1], 1 << 30), "length")

    def strict(request: ScoreRequest) -> Said:
        return (
            (Failed("invalid_request", "no such id", "token_ids"),)
            if 1 << 30 in request.token_ids
            else honest_scores(request)
        )

    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", beyond_the_vocabulary, say=strict)
        for number in range(3):
            await swarm.join(f"auditor {number}", say=strict)
        await swarm.tokens_until_flagged(cheat, 40)
        assert len(swarm.peers.flags) == 1


async def test_an_auditor_that_floods_is_cut_at_its_first_margin_too_many() -> None:
    written = 0

    async def flood(stream: Stream) -> None:
        nonlocal written
        await stream.read()
        await stream.write(encode_frame(Accepted(3, DIGEST, sampler=SAMPLER), 1 << 20))
        for _ in range(10_000):
            await stream.write(encode_frame(Scored.of([0.0] * 4096), 1 << 20))
            written += 1

    async with audited_swarm() as swarm:
        worker = await swarm.join("worker")
        await swarm.join("flooding", score=flood)
        await swarm.ask(worker)
        assert swarm.audits.judge.counts["failed"] == 1 and written < 100


async def test_an_auditor_that_is_slow_holds_up_neither_clients_nor_memory() -> None:
    gate = asyncio.Event()

    async def wait(stream: Stream) -> None:
        await stream.read()
        await gate.wait()

    async with audited_swarm() as swarm:
        await swarm.join("worker")
        await swarm.join("slow", score=wait)
        for number in range(100):
            async for _ in swarm.serving.dispatcher.run(
                ask(MODEL, f"question {number}", max_tokens=8, sampling=Sampling(number)), Caller("somebody")
            ):
                pass
            swarm.audits.look_now()
        assert len(swarm.audits._under_way) == MAX_UNDER_WAY and len(swarm.audits._waiting) <= MAX_KEPT
        assert swarm.audits.judge.counts["left_out"] > 0
        gate.set()
        await swarm.look()


async def test_nobody_looks_before_there_is_room_and_what_was_kept_for_long_is_left() -> None:
    async with audited_swarm() as swarm:
        worker = await swarm.join("worker")
        auditor = await swarm.join("auditor")
        known = swarm.known(auditor.peer_id)
        known.full_until_s[(MODEL, "generate")] = 1.0
        await swarm.ask(worker)
        assert not auditor.looks and not swarm.audits.is_idle
        swarm.now_s = 2.0
        await swarm.look()
        assert len(auditor.looks) == 1 and swarm.audits.is_idle

        known.full_until_s[(MODEL, "generate")] = 1e9
        await swarm.ask(worker)
        swarm.now_s += KEPT_S
        await swarm.look()
        assert len(auditor.looks) == 1 and swarm.audits.is_idle


@pytest.mark.parametrize(
    ("mode", "has_trusted", "shown", "may_be_audited"),
    [
        (AuditMode.OFF, False, False, True),
        (AuditMode.OWN, False, False, True),
        (AuditMode.OWN, True, True, True),
        (AuditMode.OWN, True, False, False),
        (AuditMode.CANARIES, False, False, True),
        (AuditMode.ALL, False, True, True),
        (AuditMode.ALL, False, False, False),
    ],
)
async def test_whose_prompts_auditors_are_shown(
    mode: AuditMode, has_trusted: bool, shown: bool, may_be_audited: bool
) -> None:
    trusted = frozenset({peer("trusted").peer_id}) if has_trusted else frozenset[str]()
    async with audited_swarm(mode, trusted) as swarm:
        worker = await swarm.join("worker")
        own, stranger = await swarm.join("trusted"), await swarm.join("stranger")
        for _ in range(4):
            await swarm.ask(worker, Caller("somebody", may_be_audited=may_be_audited))
        looks = [*own.looks, *stranger.looks]
        assert any("question" in str(look.request.prompt) for look in looks) == shown
        if has_trusted:
            assert not stranger.looks


async def test_canaries_find_a_cheat_and_show_no_prompt_of_a_client() -> None:
    async with audited_swarm(AuditMode.CANARIES) as swarm:
        cheat = await swarm.join("cheat", other_model)
        auditors = [await swarm.join(f"auditor {number}") for number in range(3)]
        for _ in range(40):
            await swarm.ask(cheat)
            swarm.now_s += CANARY_SPREAD_S
            for _ in range(3):
                await swarm.look()
        assert swarm.flag_of(cheat) is not None
        for auditor in auditors:
            assert not any("question" in str(look.request.prompt) for look in auditor.looks)
        canaries = [request for request in cheat.requests if "question" not in str(request.prompt)]
        asked = next(request for request in cheat.requests if "question" in str(request.prompt))
        assert canaries
        assert {type(each) for each in canaries} == {type(asked)}
        assert all(each.digest is None and each.sampler is None and not each.resume_tokens for each in canaries)


async def test_what_a_flagged_worker_has_under_way_goes_on_elsewhere() -> None:
    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", other_model, holds="held")
        swarm.prefer(cheat.peer_id)
        held = asyncio.create_task(
            swarm.run(ask(MODEL, request_id="held", max_tokens=24, sampling=Sampling(5)), seen := [])
        )
        await settle(lambda: len(seen) > 2)
        begun = [word for event in seen if isinstance(event, TextDelta) for word in event.token_ids]
        honest = [await swarm.join(f"honest {number}") for number in range(2)]
        swarm.book.note(cheat.peer_id, "somebody", 200)
        await swarm.tokens_until_flagged(cheat)
        assert swarm.book.received(cheat.peer_id) == swarm.book.merit(cheat.peer_id) == 0
        events, error = await held
        assert error is None and isinstance(events[-1], Finished)
        resumed = [request for each in honest for request in each.requests if request.request_id == "held"]
        assert [request.resume_tokens for request in resumed] == [tuple(begun)]
        attempts = swarm.reports[-1].attempts
        assert [attempt.outcome for attempt in attempts] == ["flagged", "length"]
        assert swarm.known(cheat.peer_id).health.state(swarm.now_s) is State.HEALTHY


async def test_a_worker_whose_flag_is_over_begins_anew() -> None:
    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", other_model)
        await swarm.join("auditor 1")
        await swarm.join("auditor 2")
        await swarm.tokens_until_flagged(cheat)
        swarm.peers.flags.lift(cheat.peer_id)
        assert swarm.audits.judge.cases.of(cheat.peer_id, DIGEST).evidence.statements == 0
        asked = len(cheat.requests)
        await swarm.tokens_until_flagged(cheat)
        assert len(cheat.requests) > asked


async def test_who_was_flagged_in_an_earlier_run_is_asked_nothing_from_the_start() -> None:
    async with audited_swarm(AuditMode.OFF) as swarm:
        flagged = peer("flagged").peer_id
        now_s = time.time()
        swarm.peers.flags.add(Flag(flagged, UNLIKE, DIGEST, 75, 14.9, ("one", "other"), False, now_s - FLAGGED_S + 60))
        cheat, honest = await swarm.join("flagged", other_model), await swarm.join("honest")
        for _ in range(20):
            await swarm.ask(cheat)
        assert (len(cheat.requests), len(honest.requests)) == (0, 20)
        await swarm.join("another")
        assert {entry.workers for entry in swarm.peers.models()} == {2}


async def test_a_model_whose_workers_are_all_flagged_has_none() -> None:
    async with audited_swarm(AuditMode.OFF) as swarm:
        await swarm.join("flagged", other_model)
        flagged = peer("flagged").peer_id
        swarm.peers.flags.add(Flag(flagged, UNLIKE, DIGEST, 75, 14.9, ("one", "other"), False, time.time()))
        _, error = await swarm.run(ask(MODEL))
        assert isinstance(error, NoWorker | ModelNotFound | Busy), error


async def test_what_a_flagged_worker_has_said_of_others_counts_no_more() -> None:
    """Two cheats accuse an honest worker: with the first of them found out, its flag is lifted."""
    async with audited_swarm() as swarm:
        worker = await swarm.join("worker")
        cheats = [await swarm.join(f"cheat {number}", other_model, accuses_all) for number in range(2)]
        for _ in range(20):
            await swarm.ask(worker)
        assert swarm.flag_of(worker) is not None, "two that lie together are believed"
        for number in range(2):
            await swarm.join(f"honest {number}")
        await swarm.tokens_until_flagged(cheats[0])
        assert swarm.flag_of(worker) is None


async def test_the_parts_of_an_answer_are_looked_at_each_by_itself() -> None:
    """Who breaks off honestly is not blamed for what another makes of the rest."""
    async with audited_swarm() as swarm:
        first = await swarm.join("first", holds="broken")
        auditor = await swarm.join("auditor", features=("score",))
        swarm.prefer(first.peer_id)
        task = asyncio.create_task(
            swarm.run(ask(MODEL, request_id="broken", max_tokens=24, sampling=Sampling(5)), seen := [])
        )
        await settle(lambda: len(seen) > 2)
        second = await swarm.join("second", other_model, features=("chat", "text", "resume"))
        for attempt in swarm.serving.watch.attempts:
            attempt.cut("it is gone")
        await task
        await swarm.look()
        begun, rest = sorted(auditor.looks, key=lambda look: len(look.request.resume_tokens))
        assert not begun.request.resume_tokens and begun.reason is None
        assert rest.request.resume_tokens == begun.token_ids and rest.reason is not None
        assert swarm.audits.judge.cases.of(first.peer_id, DIGEST).evidence.log_e < 0
        assert swarm.audits.judge.cases.of(second.peer_id, DIGEST).is_suspected


@pytest.mark.parametrize(
    ("mode", "give", "subnet", "log_e"),
    [
        (AuditMode.CANARIES, honest_answer, None, "in its favour"),
        (AuditMode.CANARIES, other_model, None, "against it"),
        (AuditMode.CANARIES, other_model, 77, "none, of a neighbour"),
        (AuditMode.OFF, other_model, None, "none, where nothing is looked at"),
    ],
)
async def test_who_goes_on_with_an_answer_tells_what_it_thinks_of_it(
    mode: AuditMode, give: Give, subnet: int | None, log_e: str
) -> None:
    """No further worker is shown anything for that, and none reads anything twice."""
    async with audited_swarm(mode) as swarm:
        first = await swarm.join("first", give, holds="broken", subnet=subnet)
        swarm.prefer(first.peer_id)
        task = asyncio.create_task(
            swarm.run(ask(MODEL, request_id="broken", max_tokens=24, sampling=Sampling(5)), seen := [])
        )
        await settle(lambda: len(seen) > 2)
        second = await swarm.join("second", subnet=subnet)
        for attempt in swarm.serving.watch.attempts:
            attempt.cut("it is gone")
        events, error = await task
        assert error is None and isinstance(events[-1], Finished)
        evidence = swarm.audits.judge.cases.of(first.peer_id, DIGEST).evidence
        is_told = not log_e.startswith("none")
        assert second.requests[0].score_resume == is_told
        assert evidence.statements == is_told and not second.looks
        if is_told:
            assert evidence.positions == len(second.requests[0].resume_tokens)
            assert (evidence.log_e > 0) == (log_e == "against it")


async def test_what_is_told_for_nothing_is_not_looked_at_again() -> None:
    async with audited_swarm() as swarm:
        first = await swarm.join("first", holds="broken")
        auditor = await swarm.join("auditor", features=("score",))
        swarm.prefer(first.peer_id)
        task = asyncio.create_task(swarm.run(ask(MODEL, request_id="broken", max_tokens=24), seen := []))
        await settle(lambda: len(seen) > 2)
        second = await swarm.join("second")
        for attempt in swarm.serving.watch.attempts:
            attempt.cut("it is gone")
        await task
        await swarm.look()
        assert second.requests[0].resume_tokens and not second.looks
        assert [look.request.resume_tokens for look in auditor.looks] == [second.requests[0].resume_tokens]
        assert swarm.audits.judge.cases.of(first.peer_id, DIGEST).evidence.statements == 1


async def test_an_end_that_is_doubted_is_looked_at_though_its_tokens_were_told() -> None:
    """Who cuts answers short gives right tokens: only the end says so."""
    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", lambda request: Answer(honest_answer(request).ids[:2], "length"))
        for number in range(3):
            await swarm.join(f"honest {number}")
        tokens = await swarm.tokens_until_flagged(cheat, 60)
        assert tokens <= 60, f"it took {tokens} tokens"


async def test_of_several_answers_one_is_looked_at_with_its_own_seed() -> None:
    request = ask(MODEL, n=3, max_tokens=8, sampling=Sampling(5))
    async with audited_swarm() as swarm:
        worker = swarm.known((await swarm.join("worker")).peer_id)
        given = Given(request, worker, worker.record.models[0], choice=2)
        for choice in range(3):
            given.note(TextDelta("x", (choice, choice), choice))
        given.note_end(Finished("length", Usage(3, 6), other_reasons=("stop", "stop")))
        look = given.to_score(random.Random(1))
        assert look is not None and (look.token_ids, look.reason, look.request.n) == ((2, 2), "stop", 1)
        assert look.request.sampling.seed == choice_seed(5, 2)


@pytest.mark.parametrize(
    ("asked", "clamps", "reason", "sent"),
    [
        (64, False, "length", 64),
        (None, False, "length", "the context"),
        (64, True, "length", 64),
        (1 << 20, True, "length", "the context"),
        (None, False, "stop", None),
        (1 << 20, True, "stop", 1 << 20),
    ],
)
async def test_an_auditor_is_told_how_long_an_answer_was_to_be(
    asked: int | None, clamps: bool, reason: FinishReason, sent: int | str | None
) -> None:
    """Where the request leaves that to the context it is that of the worker: else one could cut its answers short."""
    async with audited_swarm() as swarm:
        worker = swarm.known((await swarm.join("worker")).peer_id)
        card = worker.record.models[0]
        given = Given(ask(MODEL, max_tokens=asked, clamp_max_tokens=clamps), worker, card)
        given.note(TextDelta("x", (1, 2)))
        given.note_end(Finished(reason, Usage(30, 2)))
        look = given.to_score(random.Random(1))
    assert look is not None
    assert look.request.max_tokens == (card.context_length - 30 if sent == "the context" else sent)
    assert look.request.clamp_max_tokens is (clamps and reason != "length")


@pytest.mark.parametrize(("tokens", "looked_at"), [(1, MAX_POSITIONS), (10, MAX_POSITIONS + 6), (5_000, 5_000)])
async def test_of_a_long_answer_a_window_of_whole_deltas_is_looked_at(tokens: int, looked_at: int) -> None:
    """Half a delta has no text: whoever sends much at once is looked at in whole."""
    async with audited_swarm() as swarm:
        worker = swarm.known((await swarm.join("worker")).peer_id)
        ids = tuple(range(5_000))
        for seed in range(5):
            given = Given(ask(MODEL, max_tokens=5_000), worker, worker.record.models[0])
            deltas = [TextDelta(f"{first} ", ids[first : first + tokens]) for first in range(0, 5_000, tokens)]
            for delta in deltas:
                given.note(delta)
            given.note_end(Finished("length", Usage(3, 5_000)))
            look = given.to_score(random.Random(seed))
            assert look is not None and len(look.token_ids) == looked_at
            first = len(look.request.resume_tokens)
            assert (*look.request.resume_tokens, *look.token_ids) == ids[: first + looked_at]
            assert look.text_hash == text_hash(deltas[first // tokens : (first + looked_at) // tokens])
            assert look.reason == ("length" if first + looked_at == 5_000 else None)


@pytest.mark.parametrize(
    ("prompt", "before", "answer", "part"),
    [
        (TokenPrompt((7,) * 300), 0, 99, 0.25),
        (TokenPrompt((7,) * 300), 100, 99, 0.2),
        (TextPrompt("word" * 300), 0, 99, 0.25),
        (TokenPrompt((7,) * 300), 0, 0, 1 / 301),
    ],
)
async def test_what_takes_more_reading_is_looked_at_less_once_a_worker_is_known(
    prompt: Prompt, before: int, answer: int, part: float
) -> None:
    """By what the gateway sees itself: a worker that says its prompts are long is looked at as often."""
    answers = 20_000
    async with audited_swarm() as swarm:
        worker = swarm.known((await swarm.join("worker")).peer_id)
        request = GenerateRequest("r", MODEL, prompt, resume_tokens=(7,) * before)
        given = Given(request, worker, worker.record.models[0])
        given.note(TextDelta("x", (7,) * answer))
        given.note_end(Finished("length", Usage(1 << 40, answer)))
        assert given.answer_part == pytest.approx(part, rel=0.02)
        swarm.audits.end(given)
        assert len(swarm.audits._waiting) == 1, "all of a new one's"
        swarm.audits.judge.case_of(worker, given.card).evidence.note("auditor", 0.0, 1 << 40)
        for _ in range(answers):
            swarm.audits.end(given)
        kept = len(swarm.audits._waiting) + swarm.audits.judge.counts["left_out"]
        assert kept / answers == pytest.approx(part, rel=0.2, abs=0.002)


async def test_what_follows_the_last_token_is_looked_at_where_the_answer_has_ended() -> None:
    async with audited_swarm() as swarm:
        worker = swarm.known((await swarm.join("worker")).peer_id)
        given = Given(ask(MODEL, stop=("!",)), worker, worker.record.models[0])
        deltas = [TextDelta("a b", (1, 2)), TextDelta(" c")]
        for delta in deltas:
            given.note(delta)
        broken = given.to_score(random.Random(1))
        assert broken is not None and broken.text_hash == text_hash(deltas[:1])
        given.note_end(Finished("stop", Usage(3, 4), stop="!"))
        ended = given.to_score(random.Random(1))
        assert ended is not None and ended.text_hash == text_hash(deltas)


@pytest.mark.parametrize(
    ("mode", "give", "subnet", "counts"),
    [
        (AuditMode.CANARIES, honest_answer, None, "all alike"),
        (AuditMode.ALL, honest_answer, None, "all alike"),
        (AuditMode.CANARIES, other_model, None, "none alike"),
        (AuditMode.CANARIES, other_model, 77, "none compared"),
        (AuditMode.OFF, other_model, None, "none compared"),
    ],
)
async def test_servers_elsewhere_are_compared_by_their_greedy_answers_and_never_flagged(
    mode: AuditMode, give: Give, subnet: int | None, counts: str
) -> None:
    async with audited_swarm(mode) as swarm:
        elsewhere = await swarm.join("elsewhere", give, subnet=subnet, sampler="")
        twin = await swarm.join("twin", subnet=subnet, sampler="")
        for _ in range(10):
            await swarm.ask(elsewhere)
            swarm.now_s += CANARY_SPREAD_S
            await swarm.look()
        view = swarm.audits.judge.view(swarm.known(elsewhere.peer_id))
        assert view.verdict == "unverifiable"
        assert (view.compared > 0) == (counts != "none compared")
        assert view.alike == (view.compared if counts == "all alike" else 0)
        assert not len(swarm.peers.flags)
        made = [each for each in (*elsewhere.requests, *twin.requests) if "question" not in str(each.prompt)]
        assert all(each.sampling.temperature == 0 for each in made) and bool(made) == (view.compared > 0)


@pytest.mark.parametrize(
    ("text", "other", "alike"),
    [
        ("The tides are caused by", "The tides are caused by the moon", True),
        (" The tides", "The tides", True),
        ("The tides are due to the moon's pull, mostly", "The tides are due to the moon's pull, and the sun's", True),
        ("The tides", "Sure! The tides", False),
        ("", "The tides", False),
        ("", "", False),
    ],
)
def test_answers_are_alike_that_begin_alike(text: str, other: str, alike: bool) -> None:
    assert are_alike(text, other) == alike
