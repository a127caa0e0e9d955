"""Every worker dies while streams run on it: no stream is lost, none says another word.

`python -m bench.faults` is the same at full size.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from bench.harness.storm import Fault, Herd, Kind, Outcome, enough_tokens, schedule, storm, wait_for_workers
from bench.harness.timed_client import Answered, ChatRequest
from tests.depth import scaled
from tests.faults.swarms import SEED, ChainSwarm, ask_all, chain_swarm, faults_of, logged_swarm, requests

pytestmark = pytest.mark.timeout(300)

WORKERS = 3
STREAMS = scaled(ci=24, deep=60)
SILENCED_STREAMS = 30
"""Each of the workers that are struck has some of them then, also one that has just come back."""
DELAY_MS = 60
SPACING_S = 4.0
"""In which a worker that was killed is back, mostly."""
AWAY_S = 0.5
STOPPED_S = 3.0
"""Longer than it takes to give a silent worker up."""
BACK_WITHIN_S = 10.0
TINY_STREAMS = 4
TINY_TOKENS = 400


def served_nobody(outcome: Outcome) -> list[Fault]:
    """The faults of workers that had no stream then."""
    return [struck.fault for struck in outcome.strikes if not struck.cut]


@pytest.fixture(scope="module")
def given() -> Iterator[ChainSwarm]:
    with chain_swarm(WORKERS, DELAY_MS) as made:
        yield made


def test_no_stream_notices_that_every_worker_dies(given: ChainSwarm) -> None:
    """Given streams over three workers, when each worker is killed in turn and comes back, then all answers are
    whole and what they have to be."""
    faults = schedule(random.Random(SEED), WORKERS, (Kind.KILL,), SPACING_S)
    asked = requests(STREAMS, enough_tokens(faults, DELAY_MS / 1000, spare_s=2), "kill")
    outcome = asyncio.run(storm(given.url, given.herd, asked, faults, AWAY_S))
    assert faults_of(outcome.answers) == []
    assert served_nobody(outcome) == [], "that shows nothing"
    print("added gaps", sorted(outcome.added_gaps(Kind.KILL)))


def test_no_stream_notices_silent_workers_nor_lost_daemons(given: ChainSwarm) -> None:
    """The same for machines that go without a goodbye, workers that stop without a word, and p2pds that die."""
    kinds = (Kind.GONE, Kind.STOP, Kind.P2PD)
    victims = random.Random(SEED).sample(range(WORKERS), len(kinds))  # one that has come back would have no streams
    faults = [Fault((n + 1) * SPACING_S, *pair) for n, pair in enumerate(zip(victims, kinds, strict=True))]
    asyncio.run(given.wait_well(WORKERS))
    asked = requests(SILENCED_STREAMS, enough_tokens(faults, DELAY_MS / 1000, spare_s=2), "silence")
    outcome = asyncio.run(storm(given.url, given.herd, asked, faults, STOPPED_S))
    assert faults_of(outcome.answers) == []
    assert served_nobody(outcome) == [], "that shows nothing"
    for kind in kinds:
        print(f"added gaps, {kind}", sorted(outcome.added_gaps(kind)))


@pytest.mark.deep  # tests/e2e/test_moved.py is the same for one peer
def test_a_machine_that_went_without_a_goodbye_is_used_again_once_it_is_back(given: ChainSwarm) -> None:
    """Its old connection passes for alive for half a minute. Given a worker that was killed with its p2pd, and has come
    back at another port, when all others are killed, then requests are served by it within seconds."""
    returned, *others = range(WORKERS)
    tokens = 50

    async def story() -> list[Answered]:
        await given.wait_listed(WORKERS)
        streams = requests(12, tokens, "before")
        await storm(given.url, given.herd, streams, [Fault(0.5, returned, Kind.GONE)], AWAY_S, opening_s=0.1)
        assert given.herd.members[returned].ready
        for worker in others:
            given.herd.members[worker].kill()
        return await ask_all(given.url, requests(4, tokens, "after"))

    answers = asyncio.run(story())
    assert faults_of(answers) == []
    assert max(answer.ended_s - answer.began_s for answer in answers) < tokens * DELAY_MS / 1000 + BACK_WITHIN_S


@pytest.mark.deep  # tests/e2e/test_worker.py is the same for one answer
def test_the_bundled_model_goes_on_with_the_same_tokens() -> None:
    """Given answers of the tiny model, greedy and sampled, when one of its two workers is killed, then the
    answers are those of workers that nobody disturbed."""
    asked = [
        ChatRequest(f"tiny-{n}", "tiny", f"Tell me number {n}.", TINY_TOKENS, seed=n, temperature=float(n % 2))
        for n in range(TINY_STREAMS)
    ]
    with logged_swarm() as running:
        bootstrap = running.bootstrap()
        herd = Herd(lambda: running.worker(bootstrap, "--model", "tiny"), 2, served_file=None)
        url = str(running.gateway(bootstrap).ready["http"])
        herd.wait_ready()
        asyncio.run(wait_for_workers(url, "tiny", 2))
        undisturbed = asyncio.run(ask_all(url, asked))
        assert all(answer.is_complete for answer in undisturbed)
        first, _ = schedule(random.Random(SEED), 2, (Kind.KILL,), spacing_s=0.5)
        outcome = asyncio.run(storm(url, herd, asked, [first], AWAY_S, opening_s=0.1))
    assert [answer.text for answer in outcome.answers] == [answer.text for answer in undisturbed]
    assert all(answer.is_complete for answer in outcome.answers)
