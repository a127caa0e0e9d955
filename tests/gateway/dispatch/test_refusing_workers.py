"""Workers that say a request cannot be served, as stories: some are right, and some lie."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from gateway.dispatch.second_opinion import WAIT_S
from gateway.dispatch.usual import MIN_SAMPLES
from gateway.peers.health import MAX_FAILURES_IN_ROW
from p2pnet.directory import entries_for
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest, P2PNetError
from p2pnet.messages import Accepted, ChatPrompt, Event, Failed, Finished, Message, TextPrompt, Usage
from p2pnet.network.interface import Stream
from p2pnet.records import seal
from p2pnet.wire.codec import encode_frame
from p2pnet.wire.exchange import EMBED_PROTOCOL, STATUS_PROTOCOL
from p2pnet.worker.backends.synthetic.echo import ECHO_DIGEST, EchoOptions
from tests.gateway.story_swarm import ACCEPTED, CALLER, KEY, Swarm, answers, counted, is_complete, is_there, swarm
from tests.stories import ask, capability, card, peer, settle

INVALID, OVERFLOW = Failed("invalid_request", "no such role"), Failed("context_length_exceeded", "too long")
ENDED = Finished("stop", Usage(1, 0))
REFUSALS = [(INVALID, InvalidRequest), (OVERFLOW, ContextOverflow)]


@pytest.mark.parametrize(("failure", "kind"), REFUSALS)
@pytest.mark.parametrize("before", [(), (ACCEPTED,)], ids=["first", "after Accepted"])
async def test_what_one_worker_refuses_and_another_serves_is_served(
    failure: Failed, kind: type[P2PNetError], before: tuple[Event, ...]
) -> None:
    async with swarm() as given:
        liar = await given.impostor("liar", answers(*before, failure))
        other = await given.worker("other")
        given.prefer(liar)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert other.requests == 1
        assert given.cooling() == set()
        [report] = given.reports
        assert [attempt.outcome for attempt in report.attempts] == [kind.code, "stop"]


@pytest.mark.parametrize(("failure", "kind"), REFUSALS)
@pytest.mark.parametrize("before", [(), (ACCEPTED,)], ids=["first", "after Accepted"])
async def test_what_two_workers_refuse_is_refused_and_blames_neither(
    failure: Failed, kind: type[P2PNetError], before: tuple[Event, ...]
) -> None:
    async with swarm() as given:
        handler, times = counted(answers(*before, failure))
        for name in "abcd":
            await given.impostor(name, handler)
        events, error = await given.run()
        assert events == []
        assert type(error) is kind
        assert error is not None and error.message == f'A worker said: "{failure.message}"'
        assert len(times) == 2
        assert given.cooling() == set()


@pytest.mark.parametrize("wait_s", [0.0, 30.0])
async def test_the_word_of_the_only_worker_stands_at_once(wait_s: float) -> None:
    async with swarm() as given:
        given.serve(wait_s=wait_s)
        handler, times = counted(answers(INVALID))
        await given.impostor("strict", handler)
        events, error = await given.run()
        assert (events, type(error), len(times), given.now_s) == ([], InvalidRequest, 1, 0.0)


async def test_a_second_one_that_is_busy_is_waited_for_but_not_for_long() -> None:
    async with swarm() as given:
        given.serve(wait_s=60.0)
        busy = await given.worker("busy", slots=1, hold_at=0)
        held = asyncio.create_task(given.run())
        await settle(lambda: busy.begun == [0])
        strict = await given.impostor("strict", answers(INVALID))
        given.prefer(strict)
        for is_freed in (False, True):
            asked = asyncio.create_task(given.run())
            await settle(lambda: given.serving.admission.waiting("echo") == 1)
            given.now_s += 0.9 * WAIT_S
            if is_freed:
                busy.gate.set()
            else:
                await asyncio.sleep(0.1)  # queues are looked at meanwhile
                assert not asked.done()
                given.now_s += 0.2 * WAIT_S
            events, error = await asked
            assert is_complete(events) if is_freed else type(error) is InvalidRequest
        await held


async def test_a_second_one_that_fails_is_followed_by_a_third() -> None:
    async with swarm() as given:
        strict = await given.impostor("strict", answers(INVALID))
        for name in "ab":
            await given.impostor(name, answers())
        there = await given.worker("there")
        given.prefer(strict)
        events, error = await given.run()
        assert error is None and is_complete(events)
        assert there.requests == 1


async def test_where_all_others_fail_the_word_of_the_first_stands() -> None:
    async with swarm() as given:
        strict = await given.impostor("strict", answers(INVALID))
        for name in "abc":
            await given.impostor(name, answers())
        given.prefer(strict)
        events, error = await given.run()
        assert (events, type(error)) == ([], InvalidRequest)


async def test_who_has_served_before_is_asked_second() -> None:
    async with swarm() as given:
        there = await given.worker("there")
        await given.run()
        handler, times = counted(answers(INVALID))
        liars = [await given.impostor(f"liar {number}", handler) for number in range(20)]
        for _ in range(5):
            given.prefer(liars[0])
            events, error = await given.run()
            assert error is None and is_complete(events)
        assert there.requests == 6 and len(times) <= 5


async def test_refusing_what_others_serve_counts_when_it_happens_again_and_again() -> None:
    async with swarm() as given:
        await given.worker("there")
        for _ in range(MIN_SAMPLES):
            await given.run()
        liar = await given.impostor("liar", answers(INVALID))
        lies = 0
        while lies < MAX_FAILURES_IN_ROW:
            assert given.cooling() == set() and len(given.reports) < 50
            given.now_s += 1
            given.prefer(liar)
            events, error = await given.run()
            assert error is None and is_complete(events)
            lies += given.reports[-1].attempts[0].worker == liar
        assert given.cooling() == {liar}
        assert given.known(liar).health_of(KEY).reason == "refused"


@pytest.mark.parametrize("other", ["has a longer context", "runs other weights", "has never served"])
async def test_it_says_nothing_where_the_other_one_may_be_able_to_do_more_or_is_a_stranger_itself(other: str) -> None:
    async with swarm() as given:
        options = EchoOptions(context_length=1024) if other == "has a longer context" else EchoOptions()
        await given.worker("there", options=options)
        if other != "has never served":
            await given.run()
        digest = "sha256:" + "cd" * 32 if other == "runs other weights" else ECHO_DIGEST
        strict = await given.impostor("strict", answers(OVERFLOW), digest=digest)
        for _ in range(1 if other == "has never served" else 2 * MAX_FAILURES_IN_ROW):
            given.now_s += 1
            given.prefer(strict)
            events, error = await given.run()
            assert error is None and is_complete(events)
        assert given.known(strict).health_of(KEY).success_rate is None
        assert given.cooling() == set()


async def test_a_request_that_cannot_be_sent_is_nobody_s_word_and_asked_of_nobody() -> None:
    """The gateway has found it out itself."""
    async with swarm() as given:
        sites = [await given.worker(name) for name in "ab"]
        said = Message("assistant", "a" * (1 << 23))  # which a template may leave out: not too long for a context
        _, error = await given.run(msgspec.structs.replace(ask(), prompt=ChatPrompt((said,))))
        assert isinstance(error, InvalidRequest) and not error.is_hearsay
        assert [site.requests for site in sites] == [0, 0]
        [report] = given.reports
        assert len(report.attempts) == 1


async def test_what_all_say_they_cannot_do_is_told_in_their_words() -> None:
    async with swarm() as given:
        for name in "ab":
            await given.impostor(name, answers(Failed("feature_missing", "no\x1b[31m tools")))
        _, error = await given.run()
        assert isinstance(error, FeatureMissing)
        assert error.message == 'A worker said: "no [31m tools"'


# ---- vectors


async def embedder(given: Swarm, name: str, *said: Event | Embedding) -> str:
    """A peer that answers each request for vectors with this. Returns its id."""
    identity = peer(name)
    network = given.world.join(identity.peer_id)

    async def handle(stream: Stream) -> None:
        await stream.read()
        await stream.write(b"".join(encode_frame(event, 1 << 20) for event in said))

    await network.handle(EMBED_PROTOCOL, handle)
    await network.handle(STATUS_PROTOCOL, is_there)
    record = capability(identity, models=(card("vectors", task="embed", features=("text",)),))
    record = msgspec.structs.replace(record, protocols=(EMBED_PROTOCOL, STATUS_PROTOCOL))
    await network.store(entries_for(record, seal(record, identity)))
    await given.refresh()
    return identity.peer_id


VECTOR = Embedding(0, np.ones(3, np.float32).tobytes())


@pytest.mark.parametrize(("failure", "kind"), REFUSALS)
@pytest.mark.parametrize("is_lie", [True, False])
async def test_vectors_that_one_worker_refuses_are_asked_of_a_second(
    failure: Failed, kind: type[P2PNetError], is_lie: bool
) -> None:
    async with swarm() as given:
        first = await embedder(given, "first", failure)
        await embedder(given, "second", *((Accepted(1), VECTOR, ENDED) if is_lie else (failure,)))
        for worker in given.peers.workers:
            worker.pace(("vectors", "embed")).first_token_s.note(0.1 if worker.peer_id == first else 1000.0, 0.0)
        request = EmbedRequest("r1", "vectors", (TextPrompt("a"),))
        events = []
        try:
            async for event in given.serving.dispatcher.embed(request, CALLER):
                events.append(event)
        except P2PNetError as error:
            assert type(error) is kind and not is_lie
        else:
            assert is_lie and VECTOR in events
        [report] = given.reports
        assert len(report.attempts) == 2
