"""Streams to the workers on which no request arrives: more identities than a worker has places."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from bench.harness.attacks import silent_streams
from bench.harness.chain_model import chain_text
from bench.harness.siege import MIN_SHARE, MODEL, Besieged, assert_held, siege
from bench.harness.stranger.peer import Stranger
from bench.harness.target import Target
from p2pnet.client import generate
from p2pnet.errors import P2PNetError
from p2pnet.messages import GenerateRequest, Sampling, TextDelta, TextPrompt
from tests.depth import scaled

SECONDS = scaled(ci=3.0, deep=45.0)
IDENTITIES = {"silent": 70, "slow": 70, "large": 40}
"""More than there are places; of the large ones 160 MB at each worker."""
NEWCOMERS = scaled(ci=10, deep=50)
TOKENS = 4


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=2) as made:
        yield made


@pytest.mark.parametrize("way", silent_streams.WAYS)
async def test_a_gateway_is_served_beside_requests_that_never_arrive(besieged: Besieged, way: str) -> None:
    """Given a gateway with honest clients, when strangers keep all places in which requests arrive, then all aims are
    held."""
    attack = partial(silent_streams.attack, identities=IDENTITIES[way], way=way)
    assert_held(await besieged.withstand(attack, SECONDS))


async def test_newcomers_are_served_too(besieged: Besieged) -> None:
    """Given the same, when peers that no worker has ever served ask, one after the other, then four in five are."""
    served = []

    async def attack_beside_newcomers(target: Target) -> None:
        async with asyncio.TaskGroup() as group:
            attack = group.create_task(silent_streams.attack(target))
            await asyncio.sleep(1)
            for number in range(NEWCOMERS):
                served.append(await _is_served(target, number))
            attack.cancel()

    assert_held(await besieged.withstand(attack_beside_newcomers, SECONDS))
    assert len(served) == NEWCOMERS
    assert sum(served) >= MIN_SHARE * NEWCOMERS


async def _is_served(target: Target, number: int) -> bool:
    worker = target.workers[number % len(target.workers)]
    prompt = f"newcomer {number}"
    request = GenerateRequest(prompt, MODEL, TextPrompt(prompt), Sampling(seed=number), TOKENS, ignore_eos=True)
    text = ""
    async with Stranger() as newcomer:
        try:
            async for event in generate(newcomer, worker.peer_id, request, [worker.tcp_address]):
                text += event.text if isinstance(event, TextDelta) else ""
        except P2PNetError:
            return False
    return text == chain_text(prompt, number, TOKENS)
