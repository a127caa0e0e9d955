"""Peers that come again while an older connection to them is dead."""

from __future__ import annotations

import pytest

from p2pnet.network.crowd import Connection
from p2pnet.network.hivemind.returned_peers import MAX_ASKED, ReturnedPeers
from tests.network.reach.relay_world import Relay, RelayWorld
from tests.stories import settle, settle_threads

MANY_TURNS = 100_000


def connections(peer_id: str, count: int) -> list[Connection]:
    return [Connection(peer_id, f"/ip4/11.0.0.3/tcp/{4001 + number}") for number in range(count)]


class Story:
    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.peer_id = relay.candidate.peer_id
        self.returned = ReturnedPeers(RelayWorld(relay), answer_s=0.02)

    def look(self, count: int) -> None:
        self.returned.look(connections(self.peer_id, count))


async def test_who_answers_is_left_alone() -> None:
    story = Story(Relay("a"))
    for count in (1, 2, 2, 3):
        story.look(count)
    await settle(lambda: not story.relay.streams)
    assert story.relay.hung_up == 0


@pytest.mark.parametrize("relay", [Relay("a", is_mute=True), Relay("a", is_there=False)])
async def test_who_does_not_is_hung_up_on(relay: Relay) -> None:
    story = Story(relay)
    story.look(1)
    story.look(2)
    await settle_threads(lambda: relay.hung_up == 1, MANY_TURNS)
    story.look(2)
    await story.returned.stop()
    assert relay.hung_up == 1, "nobody has come again since"
    assert relay.streams == []


async def test_all_are_asked_once_this_machine_has_lost_an_address() -> None:
    there, gone = Relay("there"), Relay("gone!", is_there=False)
    returned = ReturnedPeers(RelayWorld(there, gone), answer_s=0.02)
    connected = [each for relay in (there, gone) for each in connections(relay.candidate.peer_id, 1)]
    returned.look(connected)
    returned.doubt_all()
    for _ in range(2):
        returned.look(connected)
        await settle(lambda: not there.streams and gone.hung_up == 1)
    assert there.hung_up == 0
    await returned.stop()


async def test_nobody_is_asked_for_a_first_connection_nor_for_a_circuit() -> None:
    story = Story(Relay("a", is_there=False))
    story.look(1)
    story.returned.look([Connection(story.peer_id, "/ip4/11.0.0.1/tcp/1/p2p/QmRelay/p2p-circuit")] * 3)
    await story.returned.stop()
    assert story.relay.hung_up == 0


async def test_those_who_come_twice_by_the_thousand_are_not_all_asked() -> None:
    many = [Relay(f"relay {number}", is_mute=True) for number in range(200)]
    returned = ReturnedPeers(RelayWorld(*many), answer_s=5.0)
    returned.look([each for relay in many for each in connections(relay.candidate.peer_id, 2)])
    await settle(lambda: any(relay.streams for relay in many))
    assert sum(len(relay.streams) for relay in many) <= MAX_ASKED
    await returned.stop()
