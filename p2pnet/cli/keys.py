"""`p2pnet keys`: who may use a gateway, and who has standing at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pnet.cli import options

keys = typer.Typer(
    name="keys",
    help="Add, list and revoke the keys of a gateway; claim standing at one.",
    no_args_is_help=True,
)

KeyFileOption = Annotated[
    Path,
    typer.Option(
        "--api-key-file",
        envvar="P2PNET_API_KEY_FILE",
        metavar="FILE",
        help="The file that the gateway is started with.",
    ),
]
Limit = int | None


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is.", metavar="NAME")],
    api_key_file: KeyFileOption,
    priority: Annotated[int, typer.Option("--priority", min=-3, max=3, help="The higher, the sooner its turn.")] = 0,
    requests_per_minute: Annotated[Limit, typer.Option("--requests-per-minute", min=1, help="At most.")] = None,
    tokens_per_minute: Annotated[
        Limit, typer.Option("--tokens-per-minute", min=1, help="At most, of prompts and answers.")
    ] = None,
    concurrent: Annotated[
        Limit, typer.Option("--concurrent", min=1, help="Requests at the same time, at most.")
    ] = None,
) -> None:
    """Make a key and print it. It is printed once: the file has only its hash."""
    from gateway.http.keys import ApiKey, add_key, hash_key, new_key

    secret = new_key()
    key = ApiKey(name, hash_key(secret), priority, requests_per_minute, tokens_per_minute, concurrent)
    add_key(api_key_file, key)
    typer.echo(secret)
    typer.echo(
        f"This is {name}'s key. It is not stored anywhere: keep it. A running gateway knows it at once.", err=True
    )


@keys.command("list")
def list_keys(api_key_file: KeyFileOption) -> None:
    """Show the names and limits of all keys."""
    from rich.console import Console
    from rich.table import Table

    from gateway.http.keys import read_keys

    table = Table("Name", "Priority", "Requests a minute", "Tokens a minute", "At the same time")
    found = read_keys(api_key_file).values()
    for key in found:
        limits = (key.requests_per_minute, key.tokens_per_minute, key.concurrent)
        table.add_row(key.name, str(key.priority), *("any" if limit is None else f"{limit:,}" for limit in limits))
    Console().print(table if found else "There is no key in this file.")


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Whose key.", metavar="NAME")], api_key_file: KeyFileOption
) -> None:
    """Take a key back. A running gateway refuses it within a second."""
    from gateway.http.keys import revoke_key

    revoke_key(api_key_file, name)
    typer.echo(f"{name}'s key is revoked.")


@keys.command()
def claim(
    gateway: Annotated[
        str,
        typer.Argument(
            help="The gateway's peer id, from whoever runs it: the key is good there, and nowhere else.", metavar="PEER"
        ),
    ],
    identity: Annotated[
        Path | None,
        typer.Option("--identity", metavar="FILE", help="Your worker's key file. Default: that in the data folder."),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=90, help="How long the key is good.")] = 30,
    api_key_env: options.ApiKeyEnv = None,
    show_at: Annotated[
        str | None,
        typer.Option(
            "--show-at",
            metavar="URL",
            help="The gateway's base URL: show it what other gateways have signed for your worker, and print what "
            "standing that makes.",
        ),
    ] = None,
) -> None:
    """Make a key that claims your worker's standing at a gateway, and print it: clients send it as their API key.

    Who has given is served sooner while all workers are busy.

    Once a newer key has been used, older ones for that gateway are worthless.

    Where it has keys of its own, name yours: what is printed is both in one.
    """
    from p2pnet.cli.claiming import make_key, show
    from p2pnet.cli.given import GIVEN_FILE
    from p2pnet.cli.settings import data_dir, key_from

    own = key_from(api_key_env, "--api-key-env", "gateway")
    made = make_key(gateway, identity, days, own)
    typer.echo(made.key)
    typer.echo(
        f"Whoever has this key asks in the name of your worker {made.worker}: keep it. It is good at the gateway "
        f"{gateway} alone, for {days} days.",
        err=True,
    )
    if show_at is not None:
        typer.echo(show(made, show_at, data_dir() / GIVEN_FILE), err=True)
