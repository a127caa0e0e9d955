"""Messages to and from nodes of the DHT that cost much, or are none: items 1 to 4 of what ended or blinded peers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bench.harness.attacks import garbage_neighbours, greedy_finds, invented_nodes, nested_dictionaries
from bench.harness.siege import Besieged, assert_held, siege
from bench.harness.target import Target
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.network.dht.storage import MAX_VALUES_PER_PEER
from p2pnet.peer import Peer
from tests.depth import scaled

SECONDS = scaled(ci=3.0, deep=20.0)
KEYS = scaled(ci=2_048, deep=8_192)


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=2) as made:
        yield made


async def test_dictionaries_nested_deep_end_nobody(besieged: Besieged) -> None:
    """Given nodes that store, ask and answer, when what they are sent and answered is nested 250 and 5,000 deep, then
    all aims are held."""
    assert_held(await besieged.withstand(nested_dictionaries.attack, SECONDS))


@pytest.fixture(scope="module")
def crowded(besieged: Besieged) -> Besieged:
    asyncio.run(greedy_finds.crowd(besieged.target))
    return besieged


@pytest.mark.parametrize("question", greedy_finds.QUESTIONS)
async def test_questions_are_bounded_before_they_are_answered(crowded: Besieged, question: str) -> None:
    """Given a key with a hundred records, when strangers ask for it, or for too much, as often as they can, then all
    aims are held."""
    assert_held(await crowded.withstand(partial(greedy_finds.attack, question=question), SECONDS))


async def test_invented_nodes_and_keys_cost_little(besieged: Besieged) -> None:
    """Given strangers that store under ever new keys and ping under ever new node ids, then all aims are held, and no
    peer keeps more for one of them than it may."""
    targets: list[Target] = []

    async def attack(target: Target) -> None:
        targets.append(target)
        await invented_nodes.attack(target)

    assert_held(await besieged.withstand(attack, SECONDS))
    kept = await invented_nodes.stored_keys(targets[0].bootstrap, range(KEYS))
    assert 0 < kept <= MAX_VALUES_PER_PEER


async def test_garbage_is_the_affair_of_whoever_answers_it(besieged: Besieged, tmp_path: Path) -> None:
    """Given neighbours whose answers are garbage, endless or none, then all aims are held, and whoever joins now finds
    the workers."""
    found: list[set[str]] = []

    async def attack(target: Target) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(garbage_neighbours.attack(target))
            await asyncio.sleep(SECONDS / 3)
            found.append(await workers_for_a_newcomer(target, tmp_path))

    assert_held(await besieged.withstand(attack, SECONDS))
    assert found == [{worker.peer_id for worker in besieged.target.workers}]


async def workers_for_a_newcomer(target: Target, folder: Path) -> set[str]:
    """Whom a peer that joins at this moment finds in the directory, for the model and among all."""
    initial = (target.bootstrap.tcp_address,)
    peer = await Peer.join(NetworkConfig(folder / "key", LOOPBACK_LISTEN, initial_peers=initial, is_client=True))
    try:
        workers = {*await peer.directory.workers(), *await peer.directory.workers_of(target.model)}
        return {worker.peer_id for worker in workers if any(card.id == target.model for card in worker.models)}
    finally:
        await peer.close()
