"""`p2pnet gateway`: the network behind OpenAI's API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from p2pnet.cli import options


def gateway(
    host: Annotated[
        str, typer.Option("--host", envvar="P2PNET_HOST", help="Serve HTTP on this address.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="P2PNET_PORT", min=0, max=65535, help="Serve HTTP here; 0: any free port.")
    ] = 8000,
    initial_peers: options.InitialPeers = [],
    listen: options.Listen = [],
    identity: options.IdentityOption = None,
    ready_file: options.ReadyFile = None,
    drain_seconds: options.DrainSeconds = 10.0,
    log_level: options.LogLevelOption = options.LogLevel.info,
    log_json: options.LogJson = False,
) -> None:
    """Start a gateway: clients that speak OpenAI's API use the network through it."""
    from gateway.gateway import Gateway
    from p2pnet.cli import logs
    from p2pnet.cli.lifecycle import Ready, run_service
    from p2pnet.cli.settings import IdentityFile, initial_peers_required
    from p2pnet.config import DEFAULT_LISTEN, NetworkConfig
    from p2pnet.multiaddrs import check_listen_address
    from p2pnet.peer import Peer

    logs.configure(log_level, log_json)
    with IdentityFile.claim(identity, "gateway") as identity_file:
        config = NetworkConfig(
            identity_file=identity_file,
            listen=tuple(map(check_listen_address, listen)) or DEFAULT_LISTEN,
            initial_peers=initial_peers_required(initial_peers),
            is_client=True,
        )

        @asynccontextmanager
        async def service() -> AsyncIterator[Ready]:
            peer = await Peer.join(config)
            try:
                running = await Gateway.start(peer.network, peer.directory, host, port)
                try:
                    yield Ready(peer.identity.peer_id, await peer.join_addresses(), running.url)
                finally:
                    await running.stop(drain_seconds)
            finally:
                await peer.close()

        run_service(
            service,
            ready_file,
            "The gateway is ready.",
            hints=["Point any OpenAI client at {http}/v1, or ask from a terminal: p2pnet chat --gateway {http}"],
        )
