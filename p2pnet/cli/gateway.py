"""`p2pnet gateway`: the network behind OpenAI's API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
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
    wait_seconds: Annotated[
        float,
        typer.Option(
            "--wait-seconds",
            envvar="P2PNET_WAIT_SECONDS",
            min=0,
            max=600,
            help="How long a request waits for a worker, at its beginning and when one fails in mid-answer.",
        ),
    ] = 30.0,
    max_waiting: Annotated[
        int,
        typer.Option(
            "--max-waiting",
            envvar="P2PNET_MAX_WAITING",
            min=0,
            help="Requests that may wait for one model; one more is told to come back later (429).",
        ),
    ] = 512,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            envvar="P2PNET_API_KEY_FILE",
            metavar="FILE",
            help="Serve only who has a key of this file (see `p2pnet keys`). Without it --host is a loopback address.",
        ),
    ] = None,
    alias: Annotated[
        list[str],
        typer.Option(
            "--alias",
            envvar="P2PNET_ALIAS",
            metavar="NAME=MODEL",
            help="Let clients ask for MODEL under another name, such as gpt-4o-mini. MODEL may be auto. Repeatable.",
        ),
    ] = [],
    code_model: Annotated[
        str | None,
        typer.Option(
            "--code-model",
            envvar="P2PNET_CODE_MODEL",
            metavar="MODEL",
            help="What editors get that name no model of the network. Default: the first one that is made for code, "
            "else any.",
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str],
        typer.Option(
            "--trusted-proxy",
            envvar="P2PNET_TRUSTED_PROXY",
            metavar="ADDRESS",
            help="Believe the X-Forwarded-For of this proxy, or of all in a network such as 10.0.0.0/8: without keys, "
            "callers share the queues by their addresses. Repeatable. Default: nobody is believed.",
        ),
    ] = [],
    initial_peers: options.InitialPeers = [],
    listen: options.Listen = [],
    identity: options.IdentityOption = None,
    ready_file: options.ReadyFile = None,
    drain_seconds: options.DrainSeconds = 10.0,
    log_level: options.LogLevelOption = options.LogLevel.info,
    log_json: options.LogJson = False,
) -> None:
    """Start a gateway: clients of OpenAI, Ollama, Anthropic or FauxPilot use the network through it."""
    from gateway.dispatch.dispatcher import DispatchConfig
    from gateway.gateway import Gateway, GatewayConfig, check_host
    from gateway.http.proxies import parse_proxies
    from gateway.model_names.naming import parse_aliases
    from gateway.queueing.admission import QueueLimits
    from gateway.serving import ServingConfig
    from p2pnet.cli import logs
    from p2pnet.cli.lifecycle import Ready, run_service
    from p2pnet.cli.settings import IdentityFile, initial_peers_required
    from p2pnet.config import DEFAULT_LISTEN, NetworkConfig
    from p2pnet.network.multiaddrs import check_listen_address
    from p2pnet.peer import Peer

    logs.configure(log_level, log_json)
    check_host(host, api_key_file is not None)
    with IdentityFile.claim(identity, "gateway") as identity_file:
        config = NetworkConfig(
            identity_file=identity_file,
            listen=tuple(map(check_listen_address, listen)) or DEFAULT_LISTEN,
            initial_peers=initial_peers_required(initial_peers),
            is_client=True,
        )

        settings = GatewayConfig(
            serving=ServingConfig(QueueLimits(max_waiting), DispatchConfig(wait_seconds)),
            history_file=identity_file.with_suffix(".sqlite3"),
            key_file=api_key_file,
            aliases=parse_aliases(alias),
            code_model=code_model,
            initial_peers=config.initial_peers,
            proxies=parse_proxies(trusted_proxy),
        )

        @asynccontextmanager
        async def service() -> AsyncIterator[Ready]:
            peer = await Peer.join(config)
            try:
                running = await Gateway.start(peer.network, peer.directory, host, port, settings)
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
            hints=[
                "See the network and try it in a browser: {http}",
                "Point any OpenAI client at {http}/v1, or ask from a terminal: p2pnet chat --gateway {http}",
            ],
        )
