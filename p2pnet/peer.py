"""Puts a peer together: identity, network and directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from p2pnet.config import NetworkConfig
from p2pnet.directory import Directory, validator
from p2pnet.errors import JoinError, PeerUnreachable
from p2pnet.identity import Identity
from p2pnet.network.interface import Clock, Network
from p2pnet.records import MAX_CLOCK_SKEW_MS, MAX_RECORD_BYTES
from p2pnet.swarm.member_network import MemberNetwork
from p2pnet.swarm.membership import Membership
from p2pnet.swarm.values import MAX_MEMBER_VALUE_BYTES


def now_ms() -> int:
    """The wall clock, in the unit of records."""
    return time.time_ns() // 1_000_000


def load_network() -> Callable[..., Awaitable[Network]]:
    """Import what joining needs, which takes over a second, and return what joins: where that is done before an event
    loop runs, Ctrl-C ends it at once."""
    from p2pnet.network.hivemind.network import HivemindNetwork

    return HivemindNetwork.start


async def check_clock(network: Network, initial_peers: Sequence[str]) -> None:
    """Raises JoinError where the clocks of all initial peers that answer differ too much from ours.

    Joining says so too, unless some other peer has asked this one something meanwhile: then it knows a peer, and passes
    for joined. Nobody would believe the records that it announces.
    """
    asking = [asyncio.ensure_future(network.meet(address)) for address in initial_peers]
    ahead_s: list[float] = []
    try:
        for meeting in asyncio.as_completed(asking):
            with suppress(PeerUnreachable):
                found_s = (await meeting).clock_ahead_s
                if found_s is not None and abs(found_s) <= MAX_CLOCK_SKEW_MS / 1000:
                    return
                ahead_s += [] if found_s is None else [abs(found_s)]
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    if ahead_s:
        raise JoinError(
            f"This machine's clock differs by {min(ahead_s):.0f} seconds from that of the peers it joins through.",
            "Set the clock (for instance: timedatectl set-ntp true), or join through other peers.",
        )


@dataclass(frozen=True)
class Peer:
    """A peer that has joined."""

    config: NetworkConfig
    identity: Identity
    network: Network
    directory: Directory
    max_record_bytes: int = MAX_RECORD_BYTES
    """Of what it announces: a swarm's members have a little less, since they prove their membership with it."""

    @classmethod
    async def join(cls, config: NetworkConfig, clock: Clock = now_ms, membership: Membership | None = None) -> Peer:
        """Start p2pd and join the network: the public one, or as a member of a private swarm. Raises DaemonFailed or
        JoinError."""
        identity = Identity.load_or_create(config.identity_file)
        is_acceptable = validator(clock)
        network = await load_network()(config, identity, is_acceptable, clock)
        try:
            await check_clock(network, config.initial_peers)
            if membership is None:
                return cls(config, identity, network, Directory(network, clock))
            private = await MemberNetwork.start(network, identity, membership, is_acceptable, clock)
        except BaseException:
            await network.close()
            raise
        return cls(config, identity, private, Directory(private, clock), MAX_MEMBER_VALUE_BYTES)

    async def join_addresses(self) -> tuple[str, ...]:
        """Full multiaddrs through which others can join: our own, or those that we joined through ourselves."""
        can_be_joined = self.network.is_direct and not self.config.is_client
        return await self.network.addresses() if can_be_joined else self.config.initial_peers

    async def close(self) -> None:
        await self.network.close()
