"""`p2pnet top`: the network in a terminal, as a gateway sees it."""

from __future__ import annotations

from typing import Annotated

import typer

from p2pnet.cli import options


def top(
    gateway: options.GatewayUrl = "http://127.0.0.1:8000",
    api_key_env: options.ApiKeyEnv = None,
    once: Annotated[
        bool,
        typer.Option("--once", envvar="P2PNET_ONCE", help="Print one picture and leave, as when this is no terminal."),
    ] = False,
) -> None:
    """Watch the network through a gateway: models, workers, the last hour, failures. q leaves."""
    import asyncio
    import sys

    from rich.console import Console

    from p2pnet.cli.settings import key_from
    from p2pnet.errors import UsageError
    from p2pnet.top.reading import GatewayAway, Source
    from p2pnet.top.screen import show, show_once

    key = key_from(api_key_env, "--api-key-env", "gateway")
    console = Console(highlight=False)

    async def watch() -> None:
        async with Source.opened(gateway, key) as source:
            is_watched = sys.stdout.isatty() and not console.is_dumb_terminal
            await (show if is_watched and not once else show_once)(source, console)

    try:
        asyncio.run(watch())
    except GatewayAway as error:
        raise UsageError(error.message, "Start one with `p2pnet gateway`, or name another with --gateway.") from error
