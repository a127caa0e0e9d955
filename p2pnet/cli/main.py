"""The `p2pnet` command: its sub-commands, and how errors look. Heavy imports happen inside the commands."""

from __future__ import annotations

import signal
import sys

import typer

from p2pnet.cli import (
    bench,
    bootstrap,
    chat,
    doctor,
    drive,
    gateway,
    given,
    health,
    invite,
    keys,
    manifest,
    models,
    peers,
    service,
    swarm,
    top,
    verify,
)
from p2pnet.cli.failing import print_error
from p2pnet.cli.interruption import StoppedEarly, leave
from p2pnet.cli.serve.command import serve
from p2pnet.cli.up.command import up
from p2pnet.errors import P2PNetError

INTERRUPTED = 128 + signal.SIGINT
"""The exit status of what Ctrl-C has ended, as shells give it."""

app = typer.Typer(
    name="p2pnet",
    help="A volunteer network that serves language models with nobody in charge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    *(up, bootstrap.bootstrap, serve, drive.drive, manifest.manifest, gateway.gateway, invite.invite),
    *(
        chat.chat,
        models.models,
        peers.peers,
        top.top,
        doctor.doctor,
        health.health,
        bench.bench,
        given.given,
        verify.verify,
    ),
):
    app.command()(command)
app.add_typer(keys.keys)
app.add_typer(swarm.swarm)
app.add_typer(service.service)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from p2pnet.config import AGENT

        typer.echo(AGENT)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and leave."
    ),
) -> None:
    """A volunteer network that serves language models with nobody in charge."""


def main() -> None:
    """Run the command line. A known error is one sentence and a fix, exit status 1; Ctrl-C is one line, and the status
    that shells give it; never a traceback."""
    try:
        app()
    except P2PNetError as error:
        print_error(error)
        sys.exit(1)
    except StoppedEarly as early:
        leave(early.status)
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:  # typer takes most for itself, and exits so
            raise
        print("Interrupted.", file=sys.stderr)
        leave(INTERRUPTED)
