"""Workers that take the layers which others lack: they make a chain by themselves, and make it whole again."""

from __future__ import annotations

import re

import pytest

from tests.e2e.asking import models, streamed
from tests.processes import TCP_AND_QUIC_ON_LOOPBACK, Process, wait_until
from tests.tiny_swarm import TinySwarm

pytestmark = pytest.mark.timeout(300)

MODEL = "placed"
MEMORY = "16MB"
"""Two of the four layers, with what they keep of two conversations of 4,096 tokens."""


def layers_at(stage: Process) -> str:
    return re.findall(r"layers (\d to \d) of tiny are ready", stage.log)[-1]


def test_workers_take_the_layers_that_others_lack(tiny_swarm: TinySwarm) -> None:
    """Given two of them and a driver, the model is offered. A third takes half of the layers, too. When the only one
    with the other half leaves, one of the two goes there, and the answers are what they were."""
    joining = (*TCP_AND_QUIC_ON_LOOPBACK, "--initial-peers", tiny_swarm.address)

    def come(name: str) -> Process:
        return tiny_swarm.start(
            *("serve", "--model", "tiny", "--layers", "auto", "--memory", MEMORY, *joining), name=name
        )

    first, second = come("first"), come("second")
    driver = tiny_swarm.start("drive", "--model", "tiny", "--served-name", MODEL, *joining)
    for process in (first, second, driver):
        process.wait_ready()
    assert {layers_at(first), layers_at(second)} == {"0 to 2", "2 to 4"}
    wait_until(lambda: MODEL in models(tiny_swarm.url), "the gateway lists the chain's model")
    expected = streamed(tiny_swarm.url, "tiny", "Hello", 40).text
    assert streamed(tiny_swarm.url, MODEL, "Hello", 40).text == expected

    third = come("third")
    third.wait_ready()
    leaving, staying = (first, second) if layers_at(first) != layers_at(third) else (second, first)
    lost = layers_at(leaving)
    assert leaving.stop() == 0
    wait_until(lambda: lost in (layers_at(staying), layers_at(third)), "another stage has taken the layers")
    assert {layers_at(staying), layers_at(third)} == {"0 to 2", "2 to 4"}
    wait_until(lambda: MODEL in models(tiny_swarm.url), "the gateway lists the model again")
    assert streamed(tiny_swarm.url, MODEL, "Hello", 40).text == expected
    for process in (driver, staying, third):
        assert process.stop() == 0
    assert [process.leftovers() for process in (driver, first, second, third)] == [[], [], [], []]


def test_memory_for_not_even_one_layer_is_refused(tiny_swarm: TinySwarm) -> None:
    process = tiny_swarm.start(
        *("serve", "--model", "tiny", "--layers", "auto", "--memory", "2MB", *TCP_AND_QUIC_ON_LOOPBACK),
        *("--initial-peers", tiny_swarm.address),
        name="small",
    )
    assert process.wait() == 1
    assert "Not one layer of tiny fits into 2 MB" in process.log
    assert "Raise --memory" in process.log
