"""`p2pnet up`: joins or starts a network, lends what its owner agrees to, runs a gateway, and opens its page."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnet.cli import options
from p2pnet.cli.signature import takes
from p2pnet.display.printable import visible

if TYPE_CHECKING:
    from p2pnet.cli.up.plan import Lent
    from p2pnet.cli.up.running import Running
    from p2pnet.cli.up.servers import FoundServer

SHOWN_MODELS = 5
"""Of a server, when it is asked whether to lend it."""

BROWSER_S = 10.0
"""Some browsers are started by a command that ends at once, some by one that stays."""


@dataclass(frozen=True)
class UpFlags:
    """What one machine is asked to do."""

    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            envvar="P2PNET_MODEL",
            metavar="MODEL",
            help="Lend this model, as `p2pnet serve --model` does, without asking. Repeatable.",
            autocompletion=options.known_models,
        ),
    ] = field(default_factory=list)
    upstream: Annotated[
        list[str],
        typer.Option(
            "--upstream",
            envvar="P2PNET_UPSTREAM",
            metavar="URL",
            help="Lend this server, as `p2pnet serve --upstream` does, without asking. Repeatable.",
        ),
    ] = field(default_factory=list)
    yes: Annotated[
        bool, typer.Option("--yes", envvar="P2PNET_YES", help="Lend every server that is found, without asking.")
    ] = False
    port: Annotated[
        int,
        typer.Option(
            "--port", envvar="P2PNET_PORT", min=0, max=65535, help="The gateway's port, or any where it is taken."
        ),
    ] = 8000
    no_browser: Annotated[
        bool, typer.Option("--no-browser", envvar="P2PNET_NO_BROWSER", help="Do not open the gateway's page.")
    ] = False
    initial_peers: options.InitialPeers = field(default_factory=list)
    swarm: options.Swarm = None
    invite: options.Invite = None
    ready_file: options.ReadyFile = None


@takes(UpFlags)
def up(flags: UpFlags) -> None:
    """All of it on this machine: join a network or start one, lend what you agree to, and use it in a browser."""
    from p2pnet.cli.up.servers import find_servers

    network = _network(flags)
    found = asyncio.run(find_servers())
    lent = agreed(flags, found, _ask if sys.stdin.isatty() else None)
    asyncio.run(_run(flags, network, lent))


def _network(flags: UpFlags) -> tuple[str, ...] | None:
    """The flags by which all parts join; None where there is no network to join. Raises UsageError."""
    from p2pnet.cli.joining import joining
    from p2pnet.cli.settings import bootstrap_sources
    from p2pnet.cli.up.plan import network_words

    if not (flags.initial_peers or flags.swarm or flags.invite or bootstrap_sources()):
        return None
    joined = joining(flags.initial_peers, flags.swarm, flags.invite)  # a wrong one is said before anything is asked
    if flags.invite is not None and joined.membership is not None:
        # A member by now. The line is a secret, and others on this machine see the flags of processes.
        return network_words((), joined.membership.invitation.name, None)
    return network_words(flags.initial_peers, flags.swarm, flags.invite)


def agreed(flags: UpFlags, found: list[FoundServer], ask: Callable[[str], bool] | None) -> Lent:
    """What is lent: what flags name, and of what was found that which the owner agrees to. `ask` None: nobody is there
    to be asked."""
    from p2pnet.cli.up.plan import Lent

    upstreams = list(flags.upstream)
    for server in found:
        if server.needs_key:
            typer.echo(
                f"{server.name} at {server.url} answers with a key only. To lend it, put the key into a variable, and "
                f"run beside this: p2pnet serve --upstream {server.url} --upstream-key-env VARIABLE"
            )
        elif server.url not in upstreams and server.models and _may_lend(_described(server), flags.yes, ask):
            upstreams.append(server.url)
    models = tuple(flags.model)
    if not models and not upstreams and _may_lend("the bundled toy model, tiny", flags.yes, ask):
        models = ("tiny",)
    return Lent(models, tuple(upstreams))


def _described(server: FoundServer) -> str:
    more = len(server.models) - SHOWN_MODELS
    names = ", ".join(map(visible, server.models[:SHOWN_MODELS])) + (f" and {more} more" if more > 0 else "")
    return f"what {server.name} at {server.url} has: {names}"


def _may_lend(what: str, yes: bool, ask: Callable[[str], bool] | None) -> bool:
    if yes:
        return True
    if ask is None:
        typer.echo(f"Not lent, since nobody is there to be asked: {what}. --yes lends it.")
        return False
    return ask(f"Lend {what}? Others' prompts are computed on this machine then")


def _ask(question: str) -> bool:
    return typer.confirm(question, default=False)


async def _run(flags: UpFlags, network: tuple[str, ...] | None, lent: Lent) -> None:
    """Until a signal. A second one hurries the end. Raises UsageError when a part ends by itself."""
    from p2pnet.cli.lifecycle import remove_ready_file
    from p2pnet.cli.up.running import running

    hurry = asyncio.Event()
    remove_ready_file(flags.ready_file)  # of an earlier run

    def stop() -> None:
        if work.cancelling():
            hurry.set()
            return
        typer.echo("Stopping all of it. Ctrl-C again does not let requests finish.")
        work.cancel()

    async with running(typer.echo, hurry) as parts:
        work = asyncio.create_task(_serve(flags, network, lent, parts))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        try:
            with suppress(asyncio.CancelledError):
                await work
        finally:
            remove_ready_file(flags.ready_file)


async def _serve(flags: UpFlags, network: tuple[str, ...] | None, lent: Lent, parts: Running) -> None:
    from p2pnet.cli.lifecycle import write_ready_file
    from p2pnet.cli.up import plan
    from p2pnet.entrance.invitation_line import to_line
    from p2pnet.network.multiaddrs import best_first

    first = None
    if network is None:
        typer.echo("No network was named, so this machine starts one.")
        first = await parts.start(plan.bootstrap())
        network = plan.network_words(best_first(first.addresses)[:1], None, None)
    gateway = await parts.start(plan.gateway(_free(flags.port), network))
    if lent:
        await parts.start(plan.worker(lent, network))
    typer.echo(f"\nThe page is at {gateway.http}, and any OpenAI client can use {gateway.http}/v1.")
    if not lent:
        typer.echo("Nothing is lent. The page says who lends what.")
    if first is not None:
        typer.echo(f"Others join with:\n  p2pnet up --invite {to_line(best_first(first.addresses))}")
    if not flags.no_browser and _has_display():
        await _open(str(gateway.http))
    typer.echo("Ctrl-C ends all of it.")
    if flags.ready_file is not None:
        write_ready_file(flags.ready_file, gateway)
    await parts.wait()


def _free(port: int) -> int:
    """This port, or 0 for any other where it is taken: vLLM has the same."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            typer.echo(f"Port {port} is taken: the gateway gets another one.")
            return 0
    return port


def _has_display() -> bool:
    """Without one, Python would open a page in this terminal, if at all."""
    return sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME")
    )


async def _open(url: str) -> None:
    """The browser is its user's: it stays when all else ends."""
    typer.echo(f"$ python -m webbrowser -t {url}")
    opened = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webbrowser", "-t", url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    with suppress(TimeoutError):
        await asyncio.wait_for(opened.wait(), BROWSER_S)
