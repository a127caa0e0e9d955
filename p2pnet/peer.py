"""Puts a peer together: identity, network and directory."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from p2pnet.config import NetworkConfig
from p2pnet.directory import Directory, validator
from p2pnet.identity import Identity
from p2pnet.network.interface import Clock, Network
from p2pnet.records import MAX_RECORD_BYTES
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
