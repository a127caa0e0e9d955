"""`p2pnet given`: what this machine has given to the network, as gateways have signed for it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnet.cli import options

if TYPE_CHECKING:
    from p2pnet.worker.given.file import Sum

GIVEN_FILE = "given.sqlite3"
"""In the data folder; all workers of it share the file."""

NAME_CHARS = 52
"""Of a name in a row: a peer id is whole, and with the numbers behind it the row has 80 characters."""

MAX_ROWS = 12
"""Of one table; `--json` has them all."""

NOTHING = "No gateway has signed for anything yet. A worker keeps what they sign while it serves."


def given(
    as_json: options.Json = False,
    signed: Annotated[
        bool,
        typer.Option(
            "--signed",
            envvar="P2PNET_SIGNED",
            help="Print what gateways have signed, as it was signed, one in base64 on each line: the newest 20,000.",
        ),
    ] = False,
) -> None:
    """Sum up what this machine has given, as gateways have signed for it. The worker may run meanwhile."""
    from p2pnet.cli.settings import data_dir

    show(data_dir() / GIVEN_FILE, as_json, signed)


def show(path: Path, as_json: bool = False, signed: bool = False) -> None:
    """Print what is in the file. Raises UsageError."""
    from dataclasses import asdict

    import msgspec

    from p2pnet.worker.given.file import read_signed, read_sums

    if signed:
        for sealed in read_signed(path):
            typer.echo(base64.b64encode(sealed).decode())
        return
    sums = read_sums(path)
    if as_json:
        typer.echo(msgspec.json.encode({"given": list(map(asdict, sums))}).decode())
    else:
        typer.echo("\n".join(summary(sums)) if sums else NOTHING)


def summary(sums: Sequence[Sum]) -> list[str]:
    """Lines of at most 80 characters. Names of models are strangers' words only as far as this machine serves them."""
    lines = _row("In all", sums)
    for heading, key in (
        ("Week", lambda each: each.week),
        ("Model", lambda each: each.model),
        ("Gateway", lambda each: each.gateway or "others"),
    ):
        lines += ["", f"{heading:<{NAME_CHARS}} {'answers':>10} {'tokens':>15}", *_rows(sums, key, heading == "Week")]
    return lines


def _rows(sums: Sequence[Sum], key: Callable[[Sum], str], is_newest_first: bool) -> Iterable[str]:
    groups: dict[str, list[Sum]] = {}
    for each in sums:
        groups.setdefault(key(each), []).append(each)
    names = sorted(groups, reverse=True) if is_newest_first else sorted(groups, key=lambda name: -_tokens(groups[name]))
    for name in names[:MAX_ROWS]:
        yield from _row(name, groups[name])
    if len(names) > MAX_ROWS:
        yield f"and {len(names) - MAX_ROWS} more: --json has them"


def _row(name: str, sums: Iterable[Sum]) -> list[str]:
    sums = list(sums)
    shown = name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 3]}..."
    return [f"{shown:<{NAME_CHARS}} {sum(each.answers for each in sums):>10,} {_tokens(sums):>15,}"]


def _tokens(sums: Iterable[Sum]) -> int:
    return sum(each.tokens for each in sums)
