"""A model over several processes: it says what the whole model says, also when a stage is killed in mid-answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.e2e.asking import models, open_stream, streamed
from tests.processes import TCP_AND_QUIC_ON_LOOPBACK, Process, wait_until
from tests.tiny_swarm import TinySwarm

pytestmark = pytest.mark.timeout(300)

MODEL = "chained"
TOKENS = 300
"""Of an answer that is still running whatever a test does meanwhile."""
CHUNKS = 5
"""Of it that have come when a stage is killed. What a driver guesses right comes many tokens at a time."""


@dataclass
class ChainedSwarm:
    """A driver of the bundled model, two stages with its first layers, and one with the others."""

    swarm: TinySwarm
    fronts: list[Process]
    back: Process
    driver: Process

    @property
    def url(self) -> str:
        return self.swarm.url


@pytest.fixture(scope="module")
def chained(tiny_swarm: TinySwarm) -> Iterator[ChainedSwarm]:
    joining = (*TCP_AND_QUIC_ON_LOOPBACK, "--initial-peers", tiny_swarm.address)
    stages = [
        tiny_swarm.start("serve", "--model", "tiny", "--layers", layers, *joining, name=name)
        for name, layers in (("front1", "0:2"), ("front2", "0:2"), ("back", "2:4"))
    ]
    driver = tiny_swarm.start("drive", "--model", "tiny", "--served-name", MODEL, *joining)
    for process in (*stages, driver):
        process.wait_ready()
    wait_until(lambda: MODEL in models(tiny_swarm.url), "the gateway lists the chain's model")
    yield ChainedSwarm(tiny_swarm, stages[:2], stages[2], driver)
    for process in (driver, *stages):
        if process.is_running:
            assert process.stop() == 0
            assert process.leftovers() == []


def test_a_chain_says_what_the_whole_model_says(chained: ChainedSwarm) -> None:
    for prompt in ("Hello", "Once upon a time, there was a network"):
        assert streamed(chained.url, MODEL, prompt, 40).text == streamed(chained.url, "tiny", prompt, 40).text
    seeded = {"prompt": "Hello", "max_tokens": 40, "temperature": 0.9, "seed": 7, "ignore_eos": True}
    texts = [
        httpx.post(f"{chained.url}/v1/completions", json={"model": model, **seeded}, timeout=60).json()["choices"][0]
        for model in (MODEL, "tiny")
    ]
    assert texts[0]["text"] == texts[1]["text"]


def test_an_answer_goes_on_where_a_stage_is_killed(chained: ChainedSwarm) -> None:
    """The first one, of which there are two. The driver says which of them it uses."""
    expected = streamed(chained.url, "tiny", "Hello", TOKENS, ignore_eos=True).text
    with open_stream(chained.url, MODEL, TOKENS) as stream:
        stream.read_chunks(CHUNKS)
        (used,) = [front for front in chained.fronts if f"layers 0 to 2 at {front.ready.peer_id}" in chained.driver.log]
        os.kill(used.pid, signal.SIGKILL)
        stream.read_all()
    assert stream.is_done
    assert stream.text == expected
    assert f"a stage of the chain, {used.ready.peer_id}, has failed" in chained.driver.log
