"""`p2pnet bootstrap`: an entry point and relay, without a model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from p2pnet.cli import options


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
            try:
                yield Ready(peer.identity.peer_id, await peer.join_addresses())
            finally:
                await peer.close()

        run_service(service, ready_file, "The bootstrap is ready.")
