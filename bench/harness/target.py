"""What an attack is told: where the peers of a swarm are, who they are, and what its honest clients ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.harness.swarm import Process


@dataclass(frozen=True)
class TargetPeer:
    """One peer, as anyone finds it in the directory."""

    peer_id: str
    addresses: tuple[str, ...]

    @classmethod
    def of(cls, process: Process) -> TargetPeer:
        """Waits until the process is ready. Raises StartFailed."""
        return cls(str(process.ready["peer_id"]), tuple(process.ready["addresses"]))

    @property
    def tcp_address(self) -> str:
        """The multiaddr for those who speak no QUIC."""
        return next(address for address in self.addresses if "/tcp/" in address)

    @property
    def tcp(self) -> tuple[str, int]:
        """Host and port of the same."""
        _, _, host, _, port, *_ = self.tcp_address.split("/")
        return host, int(port)


@dataclass(frozen=True)
class Target:
    """A swarm under attack. `url` is the gateway's."""

    bootstrap: TargetPeer
    workers: tuple[TargetPeer, ...]
    gateway: TargetPeer
    url: str
    model: str


Attack = Callable[[Target], Awaitable[None]]
"""Goes on until it is cancelled, or ends by itself when it has done all it can. It leaves nothing open behind it."""
