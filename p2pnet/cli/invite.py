"""`p2pnet invite`: a line, and its QR code, by which others join the public network."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from p2pnet.cli import options


def invite(
    initial_peers: options.InitialPeers = [],
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            envvar="P2PNET_JSON",
            help="Print the document for a web server to answer at /.well-known/p2pnet, instead of the line.",
        ),
    ] = False,
    no_qr: Annotated[
        bool, typer.Option("--no-qr", envvar="P2PNET_NO_QR", help="Draw no QR code, also on a terminal.")
    ] = False,
) -> None:
    """Print an invitation: a line for `p2pnet serve --invite`, through the peers that you join through yourself."""
    from p2pnet.cli.settings import initial_peers_required
    from p2pnet.entrance.document import encode_document

    if as_json:
        typer.echo(encode_document(initial_peers_required(initial_peers)).decode())
        return
    line = line_for(initial_peers)
    if not no_qr and sys.stderr.isatty():
        draw(line)
    typer.echo(line)
    typer.echo(
        f"Whoever has this line can join: p2pnet serve --model tiny --invite {line}\n"
        "It is no secret. For a private swarm there is `p2pnet swarm invite`.",
        err=True,
    )


def line_for(named: Sequence[str]) -> str:
    """The invitation to join through these, or through what the bootstrap file lists. Pages and domains stay as they
    are named, so that the line is short, and true for as long as they are. Raises UsageError."""
    from p2pnet.cli.settings import bootstrap_sources, initial_peers_required
    from p2pnet.entrance.invitation_line import to_line
    from p2pnet.entrance.sources import check_source, is_of_this_machine
    from p2pnet.network.multiaddrs import best_first

    sources = [check_source(source) for source in named or bootstrap_sources()]
    lasting = [source for source in sources if not is_of_this_machine(source)]
    if not lasting:
        addresses = initial_peers_required(sources)
        lasting = [address for address in addresses if not is_of_this_machine(address)] or list(addresses)
        if is_of_this_machine(lasting[0]):
            typer.echo("Only this machine can join so: all of these addresses are its own.", err=True)
    return to_line(best_first(lasting))


def draw(line: str) -> None:
    """On the terminal behind standard error: a camera reads it from there, and a pipe gets the line alone. White on
    black whatever the terminal's colours are, since not every camera reads the other way round."""
    import segno

    drawn = io.StringIO()
    segno.make_qr(line, error="L").terminal(drawn, compact=True)
    for row in drawn.getvalue().splitlines():
        typer.echo(f"\x1b[97;40m{row}\x1b[0m", err=True)
