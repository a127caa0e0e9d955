"""Joins for a moment as a client and reads the directory, for the commands that print it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from p2pnet.cli.joining import Joining
from p2pnet.config import DEFAULT_LISTEN, NetworkConfig
from p2pnet.peer import Peer, load_network
from p2pnet.records import CapabilityRecord, LoadRecord

View = tuple[tuple[CapabilityRecord, ...], dict[str, LoadRecord]]


def read_directory(network: Joining) -> View:
    """All workers that are online, and their load by peer id."""
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
        return await peer.directory.workers(), await peer.directory.loads()
