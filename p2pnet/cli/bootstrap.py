"""`p2pnet bootstrap`: an entry point and relay, without a model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from p2pnet.cli import options

if TYPE_CHECKING:
    from p2pnet.network.interface import Relayed

logger = logging.getLogger(__name__)

TOLD_EVERY_S = 600.0
"""How often a bootstrap says what it has relayed: enough to see traffic grow within a day."""


def bootstrap(
    listen: options.Listen = [],
    announce: options.Announce = [],
    initial_peers: options.InitialPeers = [],
    identity: options.IdentityOption = None,
    ready_file: options.ReadyFile = None,
    log_level: options.LogLevelOption = options.LogLevel.info,
    log_json: options.LogJson = False,
) -> None:
    """Start an entry point: others join the network through it, and peers behind NAT are reached through it."""
    from p2pnet.cli import logs
    from p2pnet.cli.lifecycle import Ready, run_service
    from p2pnet.cli.settings import IdentityFile, address_book_of, listen_addresses
    from p2pnet.cli.settings import initial_peers as resolve
    from p2pnet.config import NetworkConfig
    from p2pnet.flow.background import Background
    from p2pnet.network.multiaddrs import check_listen_address
    from p2pnet.peer import Peer

    logs.configure(log_level, log_json)
    with IdentityFile.claim(identity, "bootstrap") as identity_file:
        config = NetworkConfig(
            identity_file=identity_file,
            address_book=address_book_of(identity_file),
            listen=listen_addresses(listen),
            announce=tuple(map(check_listen_address, announce)),
            initial_peers=resolve(initial_peers),
            is_bootstrap=True,
        )

        @asynccontextmanager
        async def service() -> AsyncIterator[Ready]:
            peer = await Peer.join(config)
            background = Background()
            background.keep("telling what is relayed", lambda: tell_relayed(lambda: peer.network.relayed))
            try:
                yield Ready(peer.identity.peer_id, await peer.join_addresses())
            finally:
                await background.stop()
                await peer.close()

        run_service(service, ready_file, "The bootstrap is ready.")


async def tell_relayed(
    relayed: Callable[[], Relayed], pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Log now and then what was relayed, when that was anything."""
    from p2pnet.worker.observability.panel import relaying

    told_bytes = 0
    while True:
        await pause(TOLD_EVERY_S)
        if (now := relayed()).bytes > told_bytes:
            logger.info("relaying: %s", relaying(now))
            told_bytes = now.bytes
