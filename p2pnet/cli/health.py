"""`p2pnet health`: whether a command that serves on this machine still answers, for what watches over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pnet.cli import options

ASKED_S = 5.0
"""For each question. All of them stay on this machine."""

GREETING = b"\x13/multistream/1.0.0\n"
"""What libp2p says first on every TCP connection.
https://github.com/multiformats/multistream-select"""


def health(
    ready_file: Annotated[
        Path,
        typer.Option(
            "--ready-file", envvar="P2PNET_READY_FILE", metavar="FILE", help="The ready file of what is looked at."
        ),
    ],
    listen: options.Listen = [],
) -> None:
    """Ask what serves here whether it does: a gateway over HTTP, a worker for its metrics, and p2pd at each TCP port
    that --listen names. Status 1 when one of them does not answer. For health checks of containers and the like."""
    from p2pnet.errors import UsageError

    unwell = [said for said in _unwell(ready_file, listen) if said is not None]
    if unwell:
        raise UsageError(" ".join(unwell), "Look at its log. What runs it may start it again.")
    typer.echo("It answers.")


def _unwell(ready_file: Path, listen: list[str]) -> list[str | None]:
    """What is wrong, each in a sentence."""
    import msgspec

    from p2pnet.cli.lifecycle import Ready
    from p2pnet.cli.settings import listen_addresses
    from p2pnet.network.multiaddrs import parts_of

    try:
        ready = msgspec.json.decode(ready_file.read_bytes(), type=Ready)
    except (OSError, msgspec.MsgspecError):
        return [f"It does not serve yet, or no longer: {ready_file} is not there."]
    ports = {int(value) for each in listen_addresses(listen) for name, value in parts_of(each) if name == "tcp"}
    return [
        None if ready.http is None else _page_fails(f"{ready.http}/readyz"),
        None if ready.metrics is None else _page_fails(ready.metrics),
        *(_port_fails(port) for port in sorted(ports - {0})),
    ]


def _page_fails(url: str) -> str | None:
    import httpx

    try:
        status = httpx.get(url, timeout=ASKED_S, trust_env=False).status_code
    except httpx.HTTPError as error:
        return f"{url} does not answer: {error}."
    return None if status == 200 else f"{url} answers {status}."


def _port_fails(port: int) -> str | None:
    """A peer that listens on all addresses does so on loopback."""
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), ASKED_S) as connection:
            greeting = connection.recv(len(GREETING), socket.MSG_WAITALL)
    except OSError as error:
        return f"p2pd does not answer at port {port}: {error}."
    return None if greeting == GREETING else f"What answers at port {port} is no p2pd."
