"""`p2pnet service`: a systemd unit of the user's own for a worker, gateway or bootstrap."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnet.cli import bootstrap, gateway
from p2pnet.cli.serve.command import serve
from p2pnet.errors import UsageError

if TYPE_CHECKING:
    from p2pnet.cli.systemd_unit import Service

COMMANDS: dict[str, Callable[..., None]] = {
    "worker": serve,
    "gateway": gateway.gateway,
    "bootstrap": bootstrap.bootstrap,
}
"""What each role runs."""

service = typer.Typer(name="service", help="Run p2pnet as a systemd service of your own user.", no_args_is_help=True)

Flags = Annotated[
    list[str],
    typer.Argument(
        metavar="[ROLE] [FLAGS]...",
        help="worker (when left out), gateway or bootstrap; then the flags of that command (`serve` for a worker).",
    ),
]
Role = Annotated[str, typer.Argument(metavar="[ROLE]", help="worker, gateway or bootstrap.")]
Force = Annotated[bool, typer.Option("--force", help="Even if the unit has been changed by hand.")]
ANY_FLAGS = {"ignore_unknown_options": True}


@service.command(context_settings=ANY_FLAGS)
def install(flags: Flags = [], force: Force = False) -> None:
    """Write the unit, after a check of the flags. Starts nothing."""
    from p2pnet.cli.systemd_unit import unit_name, unit_text

    wanted = parsed(flags)
    text, path = unit_text(wanted), unit_path(wanted.role)
    check_unchanged(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    unit = unit_name(wanted.role)
    typer.echo(f"Written: {path}")
    typer.echo("Start it now, and with each session of yours:")
    typer.echo(f"  systemctl --user daemon-reload\n  systemctl --user enable --now {unit}")
    typer.echo("Keep it running when you are not logged in:\n  loginctl enable-linger")
    typer.echo(f"See what it says:\n  journalctl --user -u {unit} -f")
    if left_out := sorted(name for name in os.environ if name.startswith("P2PNET_")):
        typer.echo(
            f"Not in the unit, though set in this shell: {', '.join(left_out)}. "
            f"Give the flags instead, or add Environment= lines: systemctl --user edit {unit}",
            err=True,
        )


@service.command(context_settings=ANY_FLAGS)
def show(flags: Flags = []) -> None:
    """Print the unit that `install` would write."""
    from p2pnet.cli.systemd_unit import unit_text

    typer.echo(unit_text(parsed(flags)), nl=False)


@service.command()
def uninstall(role: Role = "worker", force: Force = False) -> None:
    """Remove the unit. What runs goes on until it is stopped."""
    from p2pnet.cli.systemd_unit import unit_name

    check_role(role)
    path = unit_path(role)
    if not path.exists():
        raise UsageError(f"There is no unit {path}.", "Nothing is to be done.")
    check_unchanged(path, force)
    for wanted_by in path.parent.glob(f"*.wants/{path.name}"):  # what `systemctl enable` has made
        wanted_by.unlink()
    path.unlink()
    typer.echo(f"Removed: {path}")
    typer.echo(f"Stop what still runs:\n  systemctl --user stop {unit_name(role)}\n  systemctl --user daemon-reload")


def parsed(flags: Sequence[str]) -> Service:
    """The role and its flags, taken by the role's own parser. Raises UsageError, or leaves as that command would."""
    from p2pnet.cli.systemd_unit import Service

    role, arguments = (flags[0], list(flags[1:])) if flags and flags[0] in COMMANDS else ("worker", list(flags))
    if arguments and not arguments[0].startswith("-"):
        check_role(arguments[0])
    name = COMMANDS[role].__name__
    alone = typer.Typer(add_completion=False)
    alone.command()(COMMANDS[role])
    context = typer.main.get_command(alone).make_context(f"p2pnet {name}", list(arguments))
    sources = {flag: context.get_parameter_source(flag) for flag in context.params}
    given = {flag for flag, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    if role == "worker" and not given & {"model", "upstream"}:  # this shell's variables are not the service's
        raise UsageError(
            "There is nothing to serve.", "Name a model, as in `p2pnet service install worker -- --model tiny`."
        )
    drain_s = context.params.get("drain_seconds", 0.0)
    return Service(role, program(Path(sys.executable)), (name, *arguments), str(Path.cwd()), drain_s)


def program(python: Path) -> tuple[str, ...]:
    """How this installation is called from anywhere: the script beside its Python, or that Python."""
    script = python.with_name("p2pnet")
    return (str(script),) if script.exists() else (str(python), "-m", "p2pnet")


def unit_path(role: str) -> Path:
    from p2pnet.cli.systemd_unit import unit_name

    named = os.environ.get("XDG_CONFIG_HOME")
    folder = Path(named) if named and Path(named).is_absolute() else Path.home() / ".config"
    return folder / "systemd" / "user" / unit_name(role)


def check_role(role: str) -> None:
    if role not in COMMANDS:
        raise UsageError(f"{role!r} is no role.", f"Name one of {', '.join(COMMANDS)}, then its flags.")


def check_unchanged(path: Path, is_forced: bool) -> None:
    """Raises UsageError where a person's work would be lost."""
    from p2pnet.cli.systemd_unit import is_untouched

    if not is_forced and path.exists() and not is_untouched(path.read_text()):
        raise UsageError(f"{path} has been changed by hand.", "Use --force to lose that, or move the file away.")
