"""Strangers announce the model in good form and misbehave: what can be told reaches no client, what cannot harms only
those who were sent to the liar. See `docs/faults.md` for which is which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

import pytest

from bench.harness.swarm import Process
from bench.harness.timed_client import Answered
from tests.faults.hostile_worker import DETECTABLE, LIES, WAYS_FILE
from tests.faults.swarms import MODEL, SEED, ChainSwarm, ask_all, chain_swarm, fault_of, faults_of, requests

pytestmark = pytest.mark.timeout(300)

HONEST = 2
DELAY_MS = 5
AT_ONCE = 30
TOKENS = 30
MAX_ROUNDS = 30
"""A worker that fails is left alone for a while, and each has to be met once."""


@pytest.fixture
def given() -> Iterator[ChainSwarm]:
    """One for each test: what a gateway has learnt of some hostile workers must not help it with others."""
    with chain_swarm(HONEST, DELAY_MS) as made:
        yield made


def test_what_can_be_told_reaches_no_client(given: ChainSwarm) -> None:
    """Given two honest workers and one of each hostile way, when requests come until all of these have been met, then
    every answer is what it has to be."""
    hostile = _hostile(given, DETECTABLE)
    answers = asyncio.run(_ask_until_met(given, hostile, set(DETECTABLE)))
    assert faults_of(answers) == []


def test_lies_in_good_form_harm_only_those_who_hear_them(given: ChainSwarm) -> None:
    """A worker may say any text, in the number of tokens asked for: answers of the honest ones are not touched."""
    honest = {str(worker.ready["peer_id"]) for worker in given.herd.members}
    liars = _hostile(given, LIES)
    answers = asyncio.run(_ask_until_met(given, liars, set(LIES)))
    assert faults_of([answer for answer in answers if answer.headers["x-p2pnet-worker"] in honest]) == []
    for answer in answers:
        assert answer.is_complete, fault_of(answer)
        assert len(answer.text.split()) == TOKENS
        assert answer.usage is not None
        assert answer.usage["completion_tokens"] == TOKENS


@pytest.mark.deep  # being busy is one of the hostile ways above
def test_a_storm_of_refusals_costs_no_request(given: ChainSwarm) -> None:
    """Given four workers that are always busy beside two honest ones, then every request is served all the same."""
    hostile = _hostile(given, ["busy"] * 4)
    answers = asyncio.run(ask_all(given.url, requests(10 * AT_ONCE, TOKENS, "storm")))
    assert faults_of(answers) == []
    assert _met(hostile) == {"busy"}


def _hostile(given: ChainSwarm, ways: Collection[str]) -> Process:
    """One process with one worker for each way, all of them listed."""
    arguments = [part for way in ways for part in ("--way", way)]
    process = given.running.program(
        "tests.faults.hostile_worker", given.bootstrap, "--model", MODEL, "--seed", str(SEED), *arguments
    )
    assert process.ready
    asyncio.run(given.wait_listed(HONEST + len(ways)))
    return process


async def _ask_until_met(given: ChainSwarm, hostile: Process, ways: set[str]) -> list[Answered]:
    answers: list[Answered] = []
    for number in range(MAX_ROUNDS):
        answers += await ask_all(given.url, requests(AT_ONCE, TOKENS, f"round {number}"))
        if _met(hostile) == ways:
            return answers
    raise AssertionError(f"never met: {ways - _met(hostile)}")


def _met(hostile: Process) -> set[str]:
    path = hostile.file(WAYS_FILE)
    return set(path.read_text().split()) if path.exists() else set()
