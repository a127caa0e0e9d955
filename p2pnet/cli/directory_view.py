"""Joins for a moment as a client and reads the directory, for the commands that print it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from p2pnet.cli.joining import Joining
from p2pnet.config import DEFAULT_LISTEN, NetworkConfig
from p2pnet.peer import Peer, load_network
from p2pnet.records import CapabilityRecord

LISTED_WHOLE = 500
"""Workers: so many are told whole in one answer for each key of their list. Some of what is announced beyond those that
are read has just gone."""


@dataclass(frozen=True)
class View:
    """Workers that are online, and how many records of workers there are: of a large network they are a part."""

    workers: tuple[CapabilityRecord, ...]
    announced: int

    @property
    def remark(self) -> str:
        """What whoever reads a list of them has to know."""
        if self.announced <= max(LISTED_WHOLE, len(self.workers)):
            return ""
        return f"A part of the network: {len(self.workers):,} workers were read, of some {self.announced:,} announced."


def read_directory(network: Joining) -> View:
    """Reads the list of all workers once."""
    load_network()
    return asyncio.run(_read(network))


@asynccontextmanager
async def visiting(network: Joining) -> AsyncIterator[Peer]:
    """A peer that joins for a moment, to ask."""
    with TemporaryDirectory(prefix="p2pnet-") as folder:  # an identity for one question
        config = NetworkConfig(
            Path(folder) / "client.key", listen=DEFAULT_LISTEN, initial_peers=network.initial_peers, is_client=True
        )
        peer = await Peer.join(config, membership=network.membership)
        try:
            yield peer
        finally:
            await peer.close()


async def _read(network: Joining) -> View:
    async with visiting(network) as peer:
        return View(await peer.directory.workers(), peer.directory.announced)
