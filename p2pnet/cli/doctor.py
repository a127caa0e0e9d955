"""`p2pnet doctor`: what is well with this machine and its way into the network, and what is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnet.cli import options
from p2pnet.display.colours import BAD, GOOD, WARNING
from p2pnet.display.wrapping import between_words

if TYPE_CHECKING:
    from rich.console import Console

    from p2pnet.doctor.verdict import Verdict


def doctor(
    initial_peers: options.InitialPeers = [],
    swarm: options.Swarm = None,
    invite: options.Invite = None,
    listen: options.Listen = [],
    gateway: Annotated[
        str | None,
        typer.Option("--gateway", envvar="P2PNET_GATEWAY", help="Ask through this gateway, too: its base URL."),
    ] = None,
    api_key_env: options.ApiKeyEnv = None,
    as_json: options.Json = False,
    log_level: options.LogLevelOption = options.LogLevel.error,
) -> None:
    """Check this machine and its way into the network, with fixes for what is not well. Status 1: something failed."""
    import asyncio

    import msgspec
    from rich.console import Console

    from p2pnet.cli import logs
    from p2pnet.cli.joining import Joining, joining
    from p2pnet.cli.settings import data_dir, key_from, listen_addresses
    from p2pnet.doctor.doctor import Wishes, examine
    from p2pnet.doctor.verdict import exit_status
    from p2pnet.errors import UsageError

    logs.configure(log_level, is_json=False)
    network = Joining(())
    no_network = None
    try:
        network = joining(initial_peers, swarm, invite)
    except UsageError as error:
        no_network = error
    key = key_from(api_key_env, "--api-key-env", "gateway")
    wishes = Wishes(
        data_dir(), listen_addresses(listen), network.initial_peers, network.membership, no_network, gateway, key
    )
    console = Console(highlight=False)

    async def run() -> list[Verdict]:
        found: list[Verdict] = []
        async with aclosing(examine(wishes)) as verdicts:
            async for verdict in _waited_for(verdicts, None if as_json else console):
                found.append(verdict)
                if not as_json:
                    show(verdict, console)
        return found

    found = asyncio.run(run())
    if as_json:
        print(msgspec.json.encode(found).decode())
    raise typer.Exit(exit_status(found))


async def _waited_for(verdicts: AsyncIterator[Verdict], console: Console | None) -> AsyncIterator[Verdict]:
    """On a terminal, show that something is going on: some checks take seconds."""
    if console is None or not console.is_terminal:
        async for verdict in verdicts:
            yield verdict
        return
    with console.status("checking"):
        async for verdict in verdicts:
            yield verdict


STYLES = {"ok": GOOD, "warning": WARNING, "failed": BAD}
LEVEL_CELLS, CHECK_CELLS = 8, 11
"""How wide the columns before what is said are."""


def show(verdict: Verdict, console: Console) -> None:
    """What was found, and the fix. On a terminal lines end between words; what is copied from them, and what a program
    reads, is whole."""
    from rich.text import Text

    indent = LEVEL_CELLS + CHECK_CELLS
    said = [(verdict.level.value, verdict.check, verdict.says)]
    if verdict.fix is not None:
        said.append(("", "fix:", verdict.fix))
    for level, check, says in said:
        lines = between_words(says, console.width, indent) if console.is_terminal else says
        shown = Text.assemble(Text(f"{level:<{LEVEL_CELLS}}", STYLES.get(level, "")), f"{check:<{CHECK_CELLS}}{lines}")
        console.print(shown, soft_wrap=True)
