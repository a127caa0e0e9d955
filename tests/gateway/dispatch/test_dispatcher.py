"""Dispatch, as stories: real workers and a gateway in one memory world, and what goes wrong between them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from gateway.dispatch.failure_policy import MAX_FAILURES
from gateway.dispatch.generate_progress import MAX_TRIES_BY_TEXT
from gateway.dispatch.hedging import MIN_SAMPLES
from gateway.interface import Caller, Routed
from gateway.observability.failures import failures_of
from gateway.peers.health import COOLDOWN_S
from p2pnet.config import ExchangeTimeouts, WorkerConfig
from p2pnet.errors import (
    Busy,
    ContextOverflow,
    DeadlineExceeded,
    FeatureMissing,
    ModelNotFound,
    NoWorker,
    P2PNetError,
    RequestError,
)
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Message,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    Usage,
)
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.wire.codec import MAX_REQUEST_FRAME_BYTES, request_decoder
from p2pnet.worker.backends.synthetic.echo import ECHO_DIGEST, EchoBackend, EchoOptions
from p2pnet.worker.serve import Worker
from tests.gateway.story_swarm import (
    ACCEPTED,
    CALLER,
    DELTA,
    FINISHED,
    PROMPT,
    Swarm,
    answers,
    is_complete,
    refuses,
    swarm,
    text_of,
)
from tests.stories import ask, peer, settle

ONE_STEP = 20
"""Turns of the event loop from a client's going to the worker's being free."""

LIKELY = TextDelta("one", (0,), logprobs=(TokenLogprob(0, b"one", -0.5),))


# ---- it works


async def test_a_request_is_served_by_a_worker_of_its_model() -> None:
    async with swarm() as given:
        site = await given.worker("a")
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert site.requests == 1
        assert given.cooling() == set()
        assert given.in_flight() == [0]


async def test_requests_at_the_same_time_spread_over_the_workers() -> None:
    async with swarm() as given:
        sites = [await given.worker(name, slots=4) for name in "abcd"]
        outcomes = await asyncio.gather(*(given.run() for _ in range(16)))
        assert all(error is None and is_complete(events) for events, error in outcomes)
        assert sum(site.requests for site in sites) == 16
        assert min(site.requests for site in sites) >= 2


async def test_a_worker_that_the_last_refresh_did_not_show_is_looked_up() -> None:
    async with swarm() as given:
        late = Worker.start(
            given.world.join(peer("late").peer_id),
            peer("late"),
            [EchoBackend(EchoOptions(name="late"))],
            given.clock,
            WorkerConfig(drain_s=0),
        )
        worker = await late
        events, error = await given.run(ask("late", PROMPT))
        assert error is None and is_complete(events)
        await worker.stop()


# ---- before the first token


async def test_a_busy_worker_is_passed_over_and_stays_in_good_standing() -> None:
    async with swarm() as given:
        # Given a full worker that looks idle from here, and a free one that looks busy.
        full, free = await given.worker("full", slots=1, hold_at=0), await given.worker("free")
        given.prefer(full.peer_id)
        held = asyncio.create_task(given.run())
        await settle(lambda: full.begun == [0])
        # When requests come, then the free one serves them.
        for _ in range(5):
            events, error = await given.run()
            assert error is None and is_complete(events)
        assert (full.requests, free.requests) == (1, 5)
        assert given.cooling() == set()
        full.gate.set()
        events, error = await held
        assert error is None and is_complete(events)


async def test_a_worker_that_cannot_be_reached_is_passed_over_and_left_alone() -> None:
    async with swarm() as given:
        gone, there = await given.worker("gone"), await given.worker("there")
        given.prefer(gone.peer_id)
        given.world.faults.severed.add(frozenset((gone.peer_id, given.network.peer_id)))
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert given.cooling() == {gone.peer_id}
        assert (gone.requests, there.requests) == (0, 1)


async def test_a_killed_worker_is_passed_over() -> None:
    async with swarm() as given:
        killed, _ = await given.worker("killed"), await given.worker("there")
        given.prefer(killed.peer_id)
        await killed.network.kill()
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert given.cooling() == {killed.peer_id}


async def test_a_draining_worker_is_passed_over() -> None:
    async with swarm() as given:
        await given.worker("there")
        draining = await given.impostor("draining", answers(Failed("draining")))
        given.prefer(draining)
        events, error = await given.run()
        assert error is None and is_complete(events)


LOST_EARLY: dict[str, StreamHandler] = {
    "gone before Accepted": answers(),
    "gone after Accepted": answers(ACCEPTED),
    "failed before Accepted": answers(Failed("worker_failed", "out of memory")),
    "failed after Accepted": answers(ACCEPTED, Failed("worker_failed", "out of memory")),
    "an unknown failure": answers(ACCEPTED, Failed("tired")),
    "a delta before Accepted": answers(DELTA),
    "a bare Finished": answers(FINISHED),
    "Accepted twice": answers(ACCEPTED, ACCEPTED),
    "an answer that ends twice": answers(ACCEPTED, FINISHED, FINISHED),
    "an end that does not end": answers(ACCEPTED, FINISHED, DELTA),
}


@pytest.mark.parametrize("handler", LOST_EARLY.values(), ids=LOST_EARLY)
async def test_a_worker_lost_before_the_first_token_is_not_noticed_by_the_client(handler: StreamHandler) -> None:
    async with swarm() as given:
        lost = await given.impostor("lost", handler)
        await given.worker("there")
        given.prefer(lost)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert sum(isinstance(event, Accepted) for event in events) == 1
        [report] = given.reports
        says_so = report.attempts[0].outcome == "worker_failed"
        assert given.cooling() == (set() if says_so else {lost})


@pytest.mark.parametrize(("is_there", "is_asked"), [(True, True), (False, False)])
async def test_a_model_that_is_silent_cools_its_worker_only_where_that_is_not_heard(
    is_there: bool, is_asked: bool
) -> None:
    async with swarm() as given:
        given.serve(timeouts=ExchangeTimeouts(accept_s=0.03))
        asked: list[str] = []

        async def one_of_two(stream: Stream) -> None:
            decoder = request_decoder()
            while not (requests := decoder.feed(await stream.read())):
                pass
            asked.append(requests[0].model)
            given.now_s += 1
            if is_there:  # it answers probes meanwhile
                given.known(stuck).heard_s = given.now_s
            await asyncio.Event().wait()

        stuck = await given.impostor("stuck", one_of_two, models=("echo", "other"))
        assert type((await given.run())[1]) is NoWorker
        health = given.known(stuck).health_of(("other", "generate"))
        assert (asked, given.cooling(), health.may_take(given.now_s)) == (["echo"], {stuck}, is_asked)


async def test_a_silent_worker_is_passed_over() -> None:
    async with swarm() as given:
        given.serve(timeouts=ExchangeTimeouts(accept_s=0.03))
        silent = await given.impostor("silent", answers(then=asyncio.Event().wait))
        await given.worker("there")
        given.prefer(silent)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert given.cooling() == {silent}


async def test_several_bad_workers_in_a_row_do_no_harm() -> None:
    async with swarm() as given:
        gone = [handler for name, handler in LOST_EARLY.items() if "fail" not in name]
        for number, handler in enumerate(gone[: MAX_FAILURES - 1]):
            await given.impostor(str(number), handler)
        there = await given.worker("there")
        for worker in given.peers.workers:
            pace = worker.pace(("echo", "generate"))
            pace.token_s.note(1000.0 if worker.peer_id == there.peer_id else 0.1, 0.0)
            pace.first_token_s.note(1000.0 if worker.peer_id == there.peer_id else 0.1, 0.0)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert len(given.cooling()) == MAX_FAILURES - 1


# ---- after the first token


@pytest.mark.parametrize("end", [(), (Failed("worker_failed"),), (Failed("busy"),)])
@pytest.mark.parametrize("resumes", [True, False], ids=["by ids", "by text"])
async def test_an_answer_that_a_worker_breaks_off_goes_on_at_another(end: tuple[Event, ...], resumes: bool) -> None:
    async with swarm() as given:
        lost = await given.impostor("lost", answers(ACCEPTED, DELTA, *end), resumes=resumes)
        there = await given.worker("there")
        given.prefer(lost)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert there.begun == [1, 2]


async def test_a_worker_killed_in_mid_answer_is_not_noticed_by_the_client() -> None:
    async with swarm() as given:
        site = await given.worker("a", hold_at=2)
        other = await given.worker("b")
        given.prefer(site.peer_id)
        seen: list[Event] = []
        running = asyncio.create_task(given.run(seen=seen))
        await settle(lambda: text_of(seen) == "one two")
        await site.network.kill()
        events, error = await running
        assert error is None and is_complete(events)
        assert given.cooling() == {site.peer_id}
        assert other.begun == [2]
        [report] = given.reports
        assert [attempt.outcome for attempt in report.attempts] == ["peer_lost", "stop"]
        assert report.gap_s == 0.0


async def test_the_end_of_an_answer_that_went_on_counts_all_of_it() -> None:
    async with swarm() as given:
        await given.impostor("lost", answers(ACCEPTED, DELTA))
        await given.worker("there")
        events, _ = await given.run()
        assert isinstance(events[-1], Finished) and events[-1].usage == Usage(3, 3)


async def test_an_answer_that_nobody_can_go_on_with_ends_with_an_error_and_never_as_complete() -> None:
    async with swarm() as given:
        await given.worker("a", options=EchoOptions(fails_after_tokens=2))
        events, error = await given.run()
        assert text_of(events) == "one two"
        assert not any(isinstance(event, Finished) for event in events)
        assert type(error) is NoWorker


BREAKS_OFF = answers(ACCEPTED, TextDelta("Hi", tokens=1), Failed("worker_failed", "a cut stream"))


@pytest.mark.parametrize("max_tokens", [3, None])
async def test_an_answer_that_each_worker_breaks_off_after_a_token_ends(max_tokens: int | None) -> None:
    """Within what was asked for, or with an error: "go on from the text" brings a token each time, for ever."""
    async with swarm() as given:
        for name in "abcdefgh":
            await given.impostor(name, BREAKS_OFF, "resume_text", resumes=False)
        events, error = await given.run(ask(text=PROMPT, max_tokens=max_tokens))
        if max_tokens is None:
            assert text_of(events) == "Hi" * (1 + MAX_TRIES_BY_TEXT)
            assert type(error) is NoWorker and "nobody can go on" in error.message
        else:
            assert text_of(events) == "HiHiHi"
            assert (error, events[-1]) == (None, Finished("length", Usage(3, 3)))


async def test_an_answer_that_nobody_could_ever_go_on_with_ends_at_once() -> None:
    """Though its request may wait for workers: none that comes can do it."""
    async with swarm() as given:
        given.serve(wait_s=3600)
        call = TextDelta(tool_calls=(ToolCallDelta(0, "c0", "now"),))
        await given.impostor("a", answers(ACCEPTED, call), "tools", resumes=False)
        chat = ChatPrompt((Message("user", "Hi"),), tools=(Tool("now"),))
        events, error = await given.run(GenerateRequest("r1", "echo", chat))
        assert events[1:] == [call]
        assert type(error) is NoWorker


async def test_an_answer_waits_for_a_worker_that_can_go_on_with_it() -> None:
    async with swarm() as given:
        given.serve(wait_s=5)
        site = await given.worker("a", hold_at=2)
        seen: list[Event] = []
        running = asyncio.create_task(given.run(seen=seen))
        await settle(lambda: text_of(seen) == "one two")
        await site.network.kill()
        given.peers.note_lost(given.known(site.peer_id))
        await given.worker("late")
        events, error = await running
        assert error is None and is_complete(events)


async def test_a_loss_is_told_while_the_answer_still_waits_for_somebody_to_go_on_with_it() -> None:
    async with swarm() as given:
        given.serve(wait_s=5)
        site = await given.worker("a", hold_at=2)
        seen: list[Event] = []
        running = asyncio.create_task(given.run(seen=seen))
        await settle(lambda: text_of(seen) == "one two")
        assert given.serving.dispatcher.under_way() == []
        await site.network.kill()
        given.peers.note_lost(given.known(site.peer_id))
        await settle(lambda: bool(given.serving.dispatcher.under_way()))
        [report] = given.serving.dispatcher.under_way()
        [failure] = failures_of([], 10, [report])
        assert (failure.worker, failure.outcome, failure.done) == (site.peer_id, "peer_lost", "going_on")
        assert given.reports == []
        given.now_s = 1.0
        await given.worker("late")
        await running
        assert given.serving.dispatcher.under_way() == []
        [failure] = failures_of(given.reports, 10)
        assert failure.done == "resumed"


# ---- nobody is left


async def test_all_busy_is_busy() -> None:
    async with swarm() as given:
        sites = [await given.worker(name, slots=1, hold_at=0) for name in "ab"]
        held = [asyncio.create_task(given.run()) for _ in range(2)]
        await settle(lambda: all(site.begun == [0] for site in sites))
        events, error = await given.run()
        assert (events, type(error)) == ([], Busy)
        assert given.cooling() == set()
        for site in sites:
            site.gate.set()
        assert all(error is None and is_complete(events) for events, error in await asyncio.gather(*held))


async def test_one_busy_among_broken_ones_is_busy() -> None:
    async with swarm() as given:
        await given.impostor("broken", answers())
        await given.impostor("full", answers(Failed("busy")))
        assert type((await given.run())[1]) is Busy


async def test_all_broken_is_no_worker_and_says_why() -> None:
    async with swarm() as given:
        await given.impostor("a", answers())
        await given.impostor("b", answers(Failed("worker_failed")))
        events, error = await given.run()
        assert (events, type(error)) == ([], NoWorker)
        assert error is not None and "peer_lost, worker_failed" in error.message


async def test_an_unknown_model_is_not_found() -> None:
    async with swarm() as given:
        site = await given.worker("a")
        events, error = await given.run(ask("unheard-of"))
        assert (events, type(error)) == ([], ModelNotFound)
        assert isinstance(error, RequestError) and error.param == "model"
        assert site.requests == 0


async def test_an_empty_network_has_no_models() -> None:
    async with swarm() as given:
        assert type((await given.run())[1]) is ModelNotFound


async def test_a_model_whose_workers_have_gone_has_no_worker() -> None:
    async with swarm() as given:
        await given.worker("a")
        given.clock.advance(1000)
        await given.refresh()
        assert type((await given.run())[1]) is NoWorker


async def test_a_digest_that_nobody_has_is_no_other_digest() -> None:
    async with swarm() as given:
        site = await given.worker("a")
        events, error = await given.run(ask(digest="sha256:" + "0" * 64))
        assert events == []
        assert isinstance(error, NoWorker | ModelNotFound)
        assert site.requests == 0


async def test_no_more_workers_are_tried_than_the_limit() -> None:
    async with swarm() as given:
        tried: list[str] = []

        async def refuse(stream: Stream) -> None:
            tried.append(stream.peer_id)

        for number in range(MAX_FAILURES + 4):
            await given.impostor(str(number), refuse)
        assert type((await given.run())[1]) is NoWorker
        assert len(tried) == MAX_FAILURES


# ---- second requests


def usually_quick(given: Swarm) -> None:
    """First tokens of the model have come after ten milliseconds so far."""
    for _ in range(MIN_SAMPLES):
        given.serving.dispatcher.hedging.note_first_token(("echo", "generate"), 0.01)


async def test_a_late_first_token_is_asked_for_elsewhere_and_the_first_one_to_answer_is_kept() -> None:
    async with swarm() as given:
        late, quick = await given.worker("late", hold_at=0), await given.worker("quick")
        given.prefer(late.peer_id)
        usually_quick(given)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert (late.begun, quick.begun) == ([0], [0, 1, 2])
        await settle(lambda: late.backend.running == 0)  # it was told to stop
        assert given.in_flight() == [0, 0]
        assert given.cooling() == set()
        [report] = given.reports
        told = {attempt.worker: (attempt.outcome, attempt.is_hedge) for attempt in report.attempts}
        assert told == {late.peer_id: ("cancelled", False), quick.peer_id: ("stop", True)}


async def test_a_second_request_takes_no_slot_that_somebody_waits_for() -> None:
    async with swarm() as given:
        given.serve(wait_s=5)
        late, full = await given.worker("late", slots=1, hold_at=0), await given.worker("full", slots=1, hold_at=0)
        usually_quick(given)
        running = [asyncio.create_task(given.run()) for _ in range(3)]  # one of them waits
        await settle(lambda: given.serving.admission.waiting("echo") == 1 and late.begun == full.begun == [0])
        await asyncio.wait(running, timeout=0.1)  # ten times what is usual
        assert (late.requests, full.requests) == (1, 1)
        for site in (late, full):
            site.gate.set()
        assert all(error is None and is_complete(events) for events, error in await asyncio.gather(*running))


# ---- waiting


async def test_a_request_whose_model_comes_back_while_it_waits_is_served() -> None:
    async with swarm() as given:
        given.serve(wait_s=5)
        gone = await given.worker("gone")
        await gone.network.kill()
        given.peers.note_lost(given.known(gone.peer_id))
        waiting = asyncio.create_task(given.run())
        await settle(lambda: given.serving.admission.waiting("echo") == 1)
        await given.worker("late")
        events, error = await waiting
        assert error is None and is_complete(events)


async def test_who_has_waited_in_vain_is_told_of_a_deadline() -> None:
    """While all are busy, and while nobody is there."""
    async with swarm() as given:
        given.serve(wait_s=5)
        busy = await given.worker("busy", slots=1, hold_at=0)
        held = asyncio.create_task(given.run())
        await settle(lambda: busy.begun == [0])
        for _ in range(2):
            waiting = asyncio.create_task(given.run())
            await settle(lambda: given.serving.admission.waiting("echo") == 1)
            given.now_s += 5
            assert type((await waiting)[1]) is DeadlineExceeded
            busy.gate.set()
            await held
            await busy.network.kill()
            given.peers.note_lost(given.known(busy.peer_id))


async def test_who_says_that_it_waits_waits_for_a_model_that_nobody_has_heard_of() -> None:
    async with swarm() as given:
        events: list[Event] = []

        async def wait() -> None:
            async for event in given.serving.dispatcher.run(ask(text=PROMPT), Caller("patient", wait_s=5)):
                events.append(event)

        waiting = asyncio.create_task(wait())
        await settle(lambda: given.serving.admission.waiting("echo") == 1)
        await given.worker("late")
        await waiting
        assert isinstance(events[0], Routed) and is_complete(events[1:])


async def test_a_full_model_lets_requests_wait_and_another_model_is_served_meanwhile() -> None:
    async with swarm() as given:
        given.serve(wait_s=5)
        full = await given.worker("full", slots=1, hold_at=0)
        await given.worker("other", options=EchoOptions(name="other"))
        held = asyncio.create_task(given.run())
        await settle(lambda: full.begun == [0])
        waiting = asyncio.create_task(given.run())
        await settle(lambda: given.serving.admission.waiting("echo") == 1)
        events, error = await given.run(ask("other", PROMPT))
        assert error is None and is_complete(events)
        full.gate.set()
        for events, error in await asyncio.gather(held, waiting):
            assert error is None and is_complete(events)


# ---- what not every worker can do


async def test_a_request_goes_to_who_announces_that_it_can_do_it() -> None:
    async with swarm() as given:
        plain = await given.worker("plain")
        able = await given.impostor("able", answers(ACCEPTED, LIKELY, FINISHED), "logprobs")
        given.prefer(plain.peer_id)
        events, error = await given.run(ask(logprobs=0))
        assert error is None and events[1:] == [LIKELY, FINISHED]
        assert plain.requests == 0
        assert given.cooling() == set()
        assert able in {worker.peer_id for worker in given.peers.workers}


async def test_what_no_worker_can_do_is_refused_by_name_before_any_is_asked() -> None:
    async with swarm() as given:
        site = await given.worker("a")
        events, error = await given.run(ask(n=2))
        assert (events, type(error)) == ([], FeatureMissing)
        assert isinstance(error, RequestError) and error.param == "n"
        assert site.requests == 0


async def test_an_answer_longer_than_any_context_is_refused_before_any_worker_is_asked() -> None:
    async with swarm() as given:
        site = await given.worker("a", options=EchoOptions(context_length=16))
        events, error = await given.run(ask(text="hi", max_tokens=17))
        assert (events, type(error)) == ([], ContextOverflow)
        assert site.requests == 0


async def test_a_worker_that_cannot_do_what_it_announced_is_passed_over_without_blame() -> None:
    async with swarm() as given:
        liar = await given.impostor("liar", refuses(FeatureMissing.code), "logprobs")
        await given.impostor("able", answers(ACCEPTED, LIKELY, FINISHED), "logprobs")
        given.prefer(liar)
        events, error = await given.run(ask(logprobs=0))
        assert error is None and events[1:] == [LIKELY, FINISHED]
        assert given.cooling() == set()


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (("feature_missing", "feature_missing"), FeatureMissing),
        (("feature_missing", "model_not_found"), FeatureMissing),
        (("feature_missing", "busy"), Busy),
        (("feature_missing", "worker_failed"), NoWorker),
    ],
)
async def test_when_all_refuse_the_client_is_told_why(codes: tuple[str, ...], kind: type[P2PNetError]) -> None:
    async with swarm() as given:
        for name, code in enumerate(codes):
            await given.impostor(str(name), refuses(code))
        assert type((await given.run())[1]) is kind


@pytest.mark.parametrize(
    ("delta", "goes_on"),
    [
        (TextDelta(tool_calls=(ToolCallDelta(0, "c0", "now"),)), False),
        (TextDelta(token_ids=(5,)), False),
        (TextDelta("the prompt", is_prompt=True), True),
    ],
    ids=["a tool call", "ids alone", "the echo"],
)
async def test_whatever_the_client_was_sent_is_not_sent_again(delta: TextDelta, goes_on: bool) -> None:
    async with swarm() as given:
        lost = await given.impostor("lost", answers(ACCEPTED, delta), "tools", "echo", resumes=False)
        other = await given.impostor("other", answers(ACCEPTED, delta, FINISHED), "tools", "echo", resumes=False)
        given.prefer(lost)
        request = GenerateRequest(
            "r1", "echo", ChatPrompt((Message("user", "Hi"),), tools=(Tool("now"),)), echo=True, max_tokens=9
        )
        events, error = await given.run(request)
        assert events[1:] == [delta, FINISHED][: 1 + goes_on]
        assert type(error) is (type(None) if goes_on else NoWorker)
        assert given.cooling() == {lost}
        assert other != lost


# ---- the request's own fault


async def test_a_context_overflow_comes_from_a_real_worker_before_any_compute() -> None:
    async with swarm() as given:
        site = await given.worker("a", options=EchoOptions(context_length=3))
        events, error = await given.run(ask(text="1 2 3 4"))
        assert (events, type(error)) == ([], ContextOverflow)
        assert site.requests == 0


async def test_a_request_that_fits_no_frame_blames_no_worker() -> None:
    async with swarm() as given:
        for name in "ab":
            await given.worker(name)
        events, error = await given.run(ask(text="a" * MAX_REQUEST_FRAME_BYTES))
        assert events == []
        assert isinstance(error, RequestError)
        assert given.cooling() == set()


# ---- clients that go away


@pytest.mark.parametrize("hold_at", [0, 1])
async def test_a_client_that_goes_frees_the_worker_within_one_step(hold_at: int) -> None:
    async with swarm() as given:
        site = await given.worker("a", slots=1, hold_at=hold_at)
        running = asyncio.create_task(given.run())
        await settle(lambda: site.begun == list(range(hold_at + 1)))
        assert given.in_flight() == [1]
        running.cancel()
        for _ in range(ONE_STEP):
            await asyncio.sleep(0)
        assert running.done()
        assert site.backend.running == 0
        assert site.begun == list(range(hold_at + 1))
        assert given.in_flight() == [0]
        assert given.cooling() == set()
        site.gate.set()
        events, error = await given.run()
        assert error is None and is_complete(events)


async def test_closing_the_answer_frees_the_worker_within_one_step() -> None:
    async with swarm() as given:
        site = await given.worker("a", hold_at=1)
        async with aclosing(given.serving.dispatcher.run(ask(text=PROMPT), CALLER)) as events:
            assert isinstance(await anext(events), Routed)
        await settle(lambda: site.backend.running == 0, ONE_STEP)
        assert given.in_flight() == [0]


async def test_a_cancelled_request_goes_to_no_other_worker() -> None:
    async with swarm() as given:
        silent = await given.impostor("silent", answers(then=asyncio.Event().wait))
        other = await given.worker("other")
        given.prefer(silent)
        running = asyncio.create_task(given.run())
        for _ in range(10):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert other.requests == 0
        assert given.cooling() == set()


# ---- cooling


async def test_a_client_that_goes_ends_no_trial_of_another_request() -> None:
    async with swarm() as given:
        # Given a worker that is tried again with one request, while an older one is still there.
        site = await given.worker("a", hold_at=0)
        health = given.known(site.peer_id).health_of(("echo", "generate"))
        older = asyncio.create_task(given.run())
        await settle(lambda: site.requests == 1)
        given.now_s += 1
        given.known(site.peer_id).health.note_failure(given.now_s, "peer_lost")
        given.now_s += COOLDOWN_S
        trial = asyncio.create_task(given.run())
        await settle(lambda: site.requests == 2)
        # When the older one's client goes, then no third one is sent there, until the trial has gone well.
        older.cancel()
        await asyncio.wait([older])
        assert not health.may_take(given.now_s)
        site.gate.set()
        await trial
        assert health.may_take(given.now_s)


async def test_a_worker_that_failed_is_asked_again_after_its_cooldown() -> None:
    async with swarm() as given:
        # Given a worker that fails once, and another one that looks busier.
        failing = True
        tried = 0

        async def handle(stream: Stream) -> None:
            nonlocal tried
            tried += 1
            await answers(*(() if failing else (ACCEPTED, TextDelta(PROMPT), FINISHED)))(stream)

        flaky = await given.impostor("flaky", handle)
        there = await given.worker("there")
        given.prefer(flaky)
        await given.run()
        assert (tried, there.requests) == (1, 1)
        # When it cools, then it is left alone.
        failing = False
        given.now_s += COOLDOWN_S - 0.01
        await given.run()
        assert (tried, there.requests) == (1, 2)
        # When it has cooled, then it is asked again, and in good standing.
        given.now_s += 0.01
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert (tried, there.requests) == (2, 2)
        assert given.cooling() == set()


async def test_the_only_worker_is_asked_though_it_cools() -> None:
    async with swarm() as given:
        site = await given.worker("a")
        given.known(site.peer_id).health.note_failure(given.now_s, "peer_lost")
        assert given.cooling() == {site.peer_id}
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert given.cooling() == set()


async def test_a_worker_that_does_not_run_the_model_any_more_is_passed_over_without_blame() -> None:
    async with swarm() as given:
        liar = await given.impostor("liar", refuses(ModelNotFound.code))
        site = await given.worker("honest")
        given.prefer(liar)
        events, error = await given.run()
        assert error is None
        assert isinstance(events[-1], Finished)
        assert site.requests == 1
        assert given.cooling() == set()


async def test_a_model_that_no_worker_runs_any_more_is_not_found() -> None:
    async with swarm() as given:
        await given.impostor("liar", refuses(ModelNotFound.code))
        _, error = await given.run()
        assert isinstance(error, ModelNotFound)


OTHER_WEIGHTS = "sha256:" + "cd" * 32


async def test_a_worker_that_chooses_its_tokens_otherwise_than_announced_is_not_believed() -> None:
    async with swarm() as given:
        liar = await given.impostor("liar", answers(Accepted(3, ECHO_DIGEST, sampler="gumbel-2")), sampler="gumbel-1")
        await given.worker("honest")
        given.prefer(liar)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert isinstance(events[0], Accepted) and events[0].sampler == ""


async def test_until_its_first_token_an_answer_may_come_from_any_weights() -> None:
    async with swarm() as given:
        first = await given.impostor("first", answers(Accepted(3, OTHER_WEIGHTS)), digest=OTHER_WEIGHTS)
        await given.worker("second")
        given.prefer(first)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert isinstance(events[0], Accepted) and events[0].digest == ECHO_DIGEST


@pytest.mark.parametrize("other", [{"digest": OTHER_WEIGHTS}, {"sampler": "gumbel-2"}], ids=["digest", "sampler"])
async def test_who_goes_on_after_the_first_token_by_ids_has_the_same_weights_and_sampler(other: dict[str, Any]) -> None:
    async with swarm() as given:
        first = await given.impostor("first", answers(ACCEPTED, TextDelta("uno", (7,))), **other)
        site = await given.worker("second")
        given.prefer(first)
        events, error = await given.run()
        assert text_of(events) == "uno"
        assert isinstance(error, NoWorker)
        assert site.requests == 0


async def test_a_worker_that_runs_other_weights_than_it_announces_is_left_alone() -> None:
    async with swarm() as given:
        liar = await given.impostor("liar", answers(Accepted(3, OTHER_WEIGHTS), DELTA, FINISHED))
        await given.worker("honest")
        given.prefer(liar)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert given.cooling() == {liar}


async def test_a_worker_that_stops_waiting_for_more_costs_no_request_and_no_trouble() -> None:
    """Given streams that are kept to a worker, when it lets them go, then the next request is answered there, as ever,
    and nothing is held against the worker."""
    async with swarm() as given:
        site = await given.worker("only")
        for _ in range(3):
            events, error = await given.run()
            assert error is None and is_complete(events)
        assert len(given.kept) == 1
        await site.network.hang_up(given.network.peer_id)
        for _ in range(2):
            events, error = await given.run()
            assert error is None and is_complete(events)
        assert site.requests == 5
        assert all(len(report.attempts) == 1 for report in given.reports)
        assert given.in_flight() == [0]
