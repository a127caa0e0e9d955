"""The gateway's side of things goes wrong: its p2pd dies, it is restarted, the bootstrap goes, clients read slowly."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from bench.harness.swarm import Process
from bench.harness.timed_client import Answered, ChatRequest, TimedStream, ask, read_response
from tests.faults.swarms import ChainSwarm, ask_all, chain_swarm, fault_of, faults_of, reference, request, requests

pytestmark = pytest.mark.timeout(300)

DELAY_MS = 20
STREAMS = 20
TOKENS = 100
SLOW_TOKENS = 400
SLOW_BYTES = 8
SLOW_PAUSE_S = 0.25
SLOW_READS = 16
"""Four seconds of a client that reads 32 bytes a second."""
RECEIVE_BUFFER_BYTES = 4096


@pytest.fixture(scope="module")
def given() -> Iterator[ChainSwarm]:
    with chain_swarm(2, DELAY_MS) as made:
        yield made


def test_streams_survive_the_death_of_the_gateways_p2pd(given: ChainSwarm) -> None:
    """p2pd is started again within a second; the workers are asked to go on, since all streams to them are gone."""
    asked = requests(STREAMS, TOKENS, "p2pd")

    async def story() -> list[Answered]:
        streams = [await TimedStream.open(given.url, one) for one in asked]
        await asyncio.gather(*(stream.wait_begun() for stream in streams))
        given.gateway.kill_daemon()
        return list(await asyncio.gather(*(stream.finish() for stream in streams)))

    assert faults_of(asyncio.run(story())) == []
    assert faults_of(asyncio.run(ask_all(given.url, requests(4, 5, "afterwards")))) == []


def test_a_slow_reader_gets_all_of_it_and_delays_nobody(given: ChainSwarm) -> None:
    """Given a client that reads a few bytes a second for a while, then others are served at their usual speed, and once
    it reads on it has missed nothing."""

    async def story() -> tuple[Answered, list[Answered]]:
        slow = asyncio.create_task(_read_slowly(given.url, request(0, SLOW_TOKENS, "slow")))
        others = await ask_all(given.url, requests(STREAMS, TOKENS, "beside"))
        return await slow, others

    slow, others = asyncio.run(story())
    assert faults_of(others) == []
    assert max(answer.ended_s - answer.began_s for answer in others) < 5 * TOKENS * DELAY_MS / 1000
    assert fault_of(slow) is None


def test_a_slow_worker_is_left_for_faster_ones(given: ChainSwarm) -> None:
    """Given a worker that takes a hundred times as long for each token, then it gets few of the requests, and all
    answers are whole."""
    slow = given.worker(100 * DELAY_MS)
    assert slow.ready
    asyncio.run(given.wait_listed(3))
    answers = asyncio.run(_steady(given.url, requests(60, 10, "uneven")))
    assert faults_of(answers) == []
    served_by_slow = [a for a in answers if a.headers["x-p2pnet-worker"] == slow.ready["peer_id"]]
    assert len(served_by_slow) <= len(answers) / 6
    given.running.stop(slow)


def test_the_swarm_goes_on_without_its_bootstrap(given: ChainSwarm) -> None:
    """Given a bootstrap that is killed while streams run, then these end well, and so do later ones; and a worker that
    dies afterwards is not missed either."""
    asked = requests(STREAMS, TOKENS, "orphans")

    async def story() -> list[Answered]:
        streams = [await TimedStream.open(given.url, one) for one in asked]
        await asyncio.gather(*(stream.wait_begun() for stream in streams))
        given.bootstrap.kill_with_daemon()
        victim = given.herd.members[0]
        victim.kill()
        answers = await asyncio.gather(*(stream.finish() for stream in streams))
        return [*answers, *await ask_all(given.url, requests(STREAMS, TOKENS, "later"))]

    assert faults_of(asyncio.run(story())) == []


def test_a_gateway_that_is_restarted_under_load_never_fakes_an_end() -> None:
    """Given streams under way, when their gateway is killed and started again on the same port, then each of them is
    cut without an end, and clients that ask again are served."""
    with chain_swarm(1, DELAY_MS) as given:
        port = int(given.url.rsplit(":", 1)[1])
        cut = asyncio.run(_cut_by(given, given.gateway))
        assert [answer.is_complete for answer in cut] == [False] * STREAMS
        for answer in cut:
            assert answer.finish_reason is None
            assert answer.error is None
            assert reference(answer.request).startswith(answer.text)
        restarted = given.running.gateway(given.bootstrap, port)
        again = asyncio.run(_ask_until_served(str(restarted.ready["http"]), requests(STREAMS, 10, "again")))
        assert faults_of(again) == []


# ---- what happens in them


async def _steady(url: str, asked: list[ChatRequest]) -> list[Answered]:
    """Six at a time, so that who is quicker serves more."""
    slots = asyncio.Semaphore(6)

    async def one(each: ChatRequest) -> Answered:
        async with slots:
            return await ask(url, each)

    return list(await asyncio.gather(*map(one, asked)))


async def _read_slowly(url: str, asked: ChatRequest) -> Answered:
    """The whole response, of which the beginning is read in small pieces, through a small buffer."""
    host, port = url.removeprefix("http://").split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, (host, int(port)))
    try:
        await loop.sock_sendall(raw, asked.encode())
        received = b""
        for _ in range(SLOW_READS):
            received += await loop.sock_recv(raw, SLOW_BYTES)
            await asyncio.sleep(SLOW_PAUSE_S)
        while data := await loop.sock_recv(raw, 1 << 16):
            received += data
        return read_response(asked, 0.0, [(0.0, received)])
    finally:
        raw.close()


async def _cut_by(given: ChainSwarm, gateway: Process) -> list[Answered]:
    streams = [await TimedStream.open(given.url, one) for one in requests(STREAMS, TOKENS, "cut")]
    await asyncio.gather(*(stream.wait_begun() for stream in streams))
    gateway.kill()
    return list(await asyncio.gather(*(stream.finish() for stream in streams)))


async def _ask_until_served(url: str, asked: list[ChatRequest]) -> list[Answered]:
    """As a client does that tries again when it is told to: a gateway that has just come knows no worker yet."""
    deadline_s = time.monotonic() + 30
    while True:
        answers = await ask_all(url, asked)
        if all(answer.status == 200 for answer in answers) or time.monotonic() > deadline_s:
            return answers
