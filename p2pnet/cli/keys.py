"""`p2pnet keys`: who may use a gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

keys = typer.Typer(name="keys", help="Add, list and revoke the keys of a gateway.", no_args_is_help=True)

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
