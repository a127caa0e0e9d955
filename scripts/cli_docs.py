"""Writes docs/cli.md from the commands themselves: names, help, flags, environment variables and defaults.

Reads the functions that typer makes commands of, not what a terminal of some width shows: the page is the same
everywhere.

    python scripts/cli_docs.py            write docs/cli.md
    python scripts/cli_docs.py --check    say whether docs/cli.md is current; exit status 1 when it is not
"""

from __future__ import annotations

import argparse
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer import Typer
from typer.models import OptionInfo, ParameterInfo

from p2pnet.cli.main import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 120

INTRODUCTION = """\
# The commands

Made by `python scripts/cli_docs.py` from the commands themselves; `p2pnet COMMAND --help` says the same.

Every flag can be given by its environment variable instead. For a flag that is repeatable, the variable holds several
values with spaces between them. Two more variables have no flag:

| variable | meaning |
|---|---|
| `P2PNET_DATA_DIR` | The data folder: identities and remembered hashes. Default: the system's place for such data. |
| `P2PNET_BOOTSTRAP_FILE` | The file of addresses to join through when there is no `--initial-peers`. |

A command that fails says why in one sentence, says what to do in another, and exits with status 1; a mistake in the
flags themselves exits with status 2. What Ctrl-C ends has status 130. A long-running command stops on Ctrl-C (SIGINT)
or SIGTERM, with status 0 once it has served, and before that with 130 or 143.

"""


@dataclass(frozen=True)
class Flag:
    """One option of a command."""

    names: tuple[str, ...]
    metavar: str | None
    envvar: str | None
    default: str | None
    is_required: bool
    help: str
    group: str | None
    """What it is for, where the command has many."""


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    flags: tuple[Flag, ...]


def commands() -> Iterator[Command]:
    """The sub-commands of `p2pnet`, in the order of its help, and those of its groups: `keys add` is one."""
    yield from _commands_of(app, "")
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _commands_of(group.typer_instance, f"{group.typer_instance.info.name} ")


def _commands_of(group: Typer, prefix: str) -> Iterator[Command]:
    for registered in group.registered_commands:
        function = registered.callback
        assert function is not None
        name = prefix + (registered.name or function.__name__)
        yield Command(name, inspect.getdoc(function) or "", tuple(_flags(function)))


def page() -> str:
    """The whole of docs/cli.md."""
    return INTRODUCTION + "\n".join(_section(command) for command in commands())


def _flags(function: Callable[..., Any]) -> Iterator[Flag]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        assert get_origin(hints[name]) is Annotated
        kind, option = get_args(hints[name])
        assert isinstance(option, ParameterInfo)
        is_required = parameter.default is inspect.Parameter.empty
        yield Flag(
            names=_names(option) if isinstance(option, OptionInfo) else (option.metavar or name.upper(),),
            metavar=option.metavar or _metavar(kind, option),
            envvar=option.envvar if isinstance(option.envvar, str) else None,
            default=None if is_required else _default(parameter.default),
            is_required=is_required,
            help=option.help or "",
            group=option.rich_help_panel if isinstance(option.rich_help_panel, str) else None,
        )


def _names(option: OptionInfo) -> tuple[str, ...]:
    """Inside Annotated, typer keeps the first name where a default would be."""
    return tuple(name for name in (option.default, *(option.param_decls or ())) if isinstance(name, str))


def _metavar(kind: Any, option: ParameterInfo) -> str | None:
    """What stands for the value; None for a flag without one."""
    if get_origin(kind) is UnionType:
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    if kind is bool:
        return None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(member.value) for member in kind)
    if kind in (int, float):
        bounds = (("from", option.min), ("to", option.max))
        return " ".join(["NUMBER", *(f"{word} {limit}" for word, limit in bounds if limit is not None)])
    return "PATH" if kind is Path else "TEXT"


def _default(value: Any) -> str | None:
    """A default as one would type it; None where the help describes it."""
    if value is None or value is False or value == []:
        return None
    if isinstance(value, float):
        return f"{value:g}"
    return str(value.value if isinstance(value, Enum) else value)


def _section(command: Command) -> str:
    lines = [f"## p2pnet {command.name}", "", *textwrap.wrap(command.help, WIDTH), ""]
    for group in dict.fromkeys(flag.group for flag in command.flags):
        lines += [f"### {group}", ""] if group else []
        lines += ["| flag | value | meaning | environment |", "|---|---|---|---|"]
        lines += [*(_row(flag) for flag in command.flags if flag.group == group), ""]
    return "\n".join(lines)


def _row(flag: Flag) -> str:
    names = ", ".join(f"`{name}`" for name in flag.names)
    value = f"`{flag.metavar}`".replace("|", "\\|") if flag.metavar else ""
    if flag.is_required:
        value += " (required)"
    meaning = flag.help + (f" Default: `{flag.default}`." if flag.default is not None else "")
    return f"| {names} | {value} | {meaning} | {f'`{flag.envvar}`' if flag.envvar else ''} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/cli.md from the commands.")
    parser.add_argument("--check", action="store_true", help="compare only")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print("docs/cli.md is not current: run python scripts/cli_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
