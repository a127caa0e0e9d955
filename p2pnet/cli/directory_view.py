"""Joins for a moment as a client and reads the directory, for the commands that print it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from p2pnet.cli.settings import initial_peers_required
from p2pnet.config import DEFAULT_LISTEN, NetworkConfig
from p2pnet.peer import Peer, load_network
from p2pnet.records import CapabilityRecord, LoadRecord

View = tuple[tuple[CapabilityRecord, ...], dict[str, LoadRecord]]


def read_directory(initial_peers: Sequence[str]) -> View:
    """All workers that are online, and their load by peer id."""
    addresses = initial_peers_required(initial_peers)
    load_network()
    return asyncio.run(_read(addresses))


async def _read(addresses: tuple[str, ...]) -> View:
    with TemporaryDirectory(prefix="p2pnet-") as folder:  # an identity for one question
        config = NetworkConfig(
            Path(folder) / "client.key", listen=DEFAULT_LISTEN, initial_peers=addresses, is_client=True
        )
        peer = await Peer.join(config)
        try:
            return await peer.directory.workers(), await peer.directory.loads()
        finally:
            await peer.close()
