"""The stages of a private swarm: members find them, pass rows through them and on; nobody else sees or reaches one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2pnet.directory import Directory
from p2pnet.errors import PeerError
from p2pnet.stage_messages import Piece, StageOpen, StagePassed, StageReady
from p2pnet.swarm.member_network import MemberNetwork
from p2pnet.wire.stage_frames import STAGE_PROTOCOL
from p2pnet.worker.stages.stage import Stage, StageModel
from tests.stories import DIGEST, peer
from tests.swarm.members import KITCHEN, Place
from tests.worker.stages.stage_swarm import CONTEXT, LAYERS, WIDTH, AddOne, Driver, asleep, numbers, row, ticket_of
from tests.worker.stages.test_stage import result

SPANS = {"a": (0, 2), "b": (2, 4)}


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """Two stages that are members of one swarm."""
    made = Place(tmp_path)
    stages: list[Stage] = []
    networks: list[MemberNetwork] = []
    for name, span in SPANS.items():
        network = made.member(name)
        model = StageModel(AddOne(), DIGEST, *span, LAYERS, WIDTH, "float32", CONTEXT, 1024)
        directory = Directory(network, made.clock)
        stages.append(await Stage.start(network, peer(name), directory, model, made.clock, sleep=asleep))
        networks.append(network)
    yield made
    for stage in stages:
        await stage.stop()
    for network in networks:
        await network.close()


async def test_a_row_passes_the_stages_of_a_private_swarm(place: Place) -> None:
    network = place.member("driver")
    assert len(await Directory(network, place.clock).stages_of(DIGEST)) == 2
    drivers: dict[str, Driver] = {}
    for name, span in SPANS.items():
        driver = drivers[name] = Driver(await network.open_stream(peer(name).peer_id, STAGE_PROTOCOL))
        await driver.say(StageOpen(DIGEST, *span, ticket_of(name)))
        assert isinstance(await driver.told(), StageReady)
    await drivers["a"].say(row("a", 1, Piece(1, 0, 2, 1), to=["b"]), numbers(1, 2))
    assert await drivers["a"].told() == StagePassed(1)
    assert await result(drivers["b"]) == [6]
    await network.close()


@pytest.mark.parametrize("is_member_elsewhere", [False, True])
async def test_whoever_is_no_member_finds_no_stage_and_is_told_nothing(place: Place, is_member_elsewhere: bool) -> None:
    network = place.member("other", KITCHEN) if is_member_elsewhere else place.stranger("other")
    assert await Directory(network, place.clock).stages_of(DIGEST) == ()
    try:
        driver = Driver(await network.open_stream(peer("a").peer_id, STAGE_PROTOCOL))
        await driver.say(StageOpen(DIGEST, 0, 2, bytes(16)))
        assert await driver.told() is None
    except PeerError:
        pass  # it was hung up on
    await network.close()
