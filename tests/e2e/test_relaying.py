"""Real daemons: a peer that relays, one that has a place there, and one that asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig, RelayLimits
from p2pnet.network.libp2p.relay import HOP_PROTOCOL, GrantedLimits, leads_to, reserve
from p2pnet.peer import Peer
from tests.depth import scaled

LIMITS = RelayLimits(data_bytes=1 << 20, duration_s=600, circuits_per_minute=1_000_000)
CIRCUITS = scaled(ci=300, deep=3000)
"""More than the streams that a QUIC connection may have at a time: 256. One that is not given back is missing."""


@dataclass(frozen=True)
class Story:
    relay: Peer
    hidden: Peer
    asker: Peer

    async def is_led_to(self) -> bool:
        """Whether the relay makes a circuit to the hidden peer."""
        stream = await self.asker.network.open_raw_stream(self.relay.identity.peer_id, HOP_PROTOCOL)
        try:
            return await leads_to(stream, self.hidden.identity.peer_id)
        finally:
            stream.close()


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    """All over QUIC."""
    relay = await Peer.join(NetworkConfig(tmp_path / "relay.key", LOOPBACK_LISTEN, is_bootstrap=True, relay=LIMITS))
    at = tuple(address for address in await relay.network.addresses() if "/quic-v1/" in address)
    asker = await Peer.join(NetworkConfig(tmp_path / "asker.key", LOOPBACK_LISTEN, is_client=True, initial_peers=at))
    hidden = NetworkConfig(tmp_path / "hidden.key", LOOPBACK_LISTEN, is_behind_nat=True, initial_peers=at)
    story = Story(relay, await Peer.join(hidden), asker)
    yield story
    for peer in (story.asker, story.hidden, story.relay):
        await peer.close()


async def test_a_relay_gives_what_it_is_told_to(story: Story) -> None:
    """And not what p2pd's own relay would give."""
    stream = await story.asker.network.open_raw_stream(story.relay.identity.peer_id, HOP_PROTOCOL)
    reservation = await reserve(stream)
    stream.close()
    assert reservation is not None
    assert reservation.limits == GrantedLimits(LIMITS.duration_s, LIMITS.data_bytes)
    assert reservation.addresses == await story.relay.network.addresses()
    assert story.relay.network.relayed.places == 2


async def test_one_that_is_told_not_to_relays_for_nobody(story: Story, tmp_path: Path) -> None:
    """Nor does p2pd in its place, which is told that others can dial it."""
    config = NetworkConfig(
        tmp_path / "unwilling.key",
        LOOPBACK_LISTEN,
        is_behind_nat=False,
        relays_for_others=False,
        initial_peers=tuple(await story.relay.network.addresses()),
    )
    unwilling = await Peer.join(config)
    try:
        at = await unwilling.network.addresses()
        stream = await story.asker.network.open_raw_stream(unwilling.identity.peer_id, HOP_PROTOCOL, at)
        assert await reserve(stream) is None
        stream.close()
    finally:
        await unwilling.close()


async def test_circuits_leave_nothing_behind(story: Story) -> None:
    for number in range(CIRCUITS):
        assert await story.is_led_to(), number
    relayed = story.relay.network.relayed
    assert relayed.circuits_made == CIRCUITS
    assert relayed.bytes > CIRCUITS
    assert relayed.circuits == 0
