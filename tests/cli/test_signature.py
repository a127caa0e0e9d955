"""A command that takes its flags as one dataclass, as typer and its users see it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from p2pnet.cli.signature import takes


@dataclass(frozen=True)
class Flags:
    name: Annotated[str, typer.Option("--name", envvar="P2PNET_TEST_NAME", help="Whose it is.")]
    peer: Annotated[list[str], typer.Option("--peer")] = field(default_factory=list)
    places: Annotated[int, typer.Option("--places", min=1)] = 8
    is_quiet: Annotated[bool, typer.Option("--quiet")] = False


def outcome_of(*arguments: str, **environment: str) -> tuple[int, str, list[Flags]]:
    """Exit status, what was printed, and what the command was called with."""
    taken: list[Flags] = []

    @takes(Flags, {"Who": ("name",), "Where": ("peer", "places")})
    def command(flags: Flags) -> None:
        """Does nothing."""
        taken.append(flags)

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **environment})
    return result.exit_code, result.output, taken


def test_each_field_is_a_flag() -> None:
    status, _, taken = outcome_of("--name", "anna", "--peer", "a", "--peer", "b", "--places", "3", "--quiet")
    assert (status, taken) == (0, [Flags("anna", ["a", "b"], 3, True)])


def test_what_is_not_given_has_its_default_or_comes_from_the_environment() -> None:
    assert outcome_of(P2PNET_TEST_NAME="bob")[2] == [Flags("bob", [], 8, False)]


@pytest.mark.parametrize(
    ("arguments", "said"), [((), "--name"), (("--name", "anna", "--places", "0"), "--places"), (("--no",), "--no")]
)
def test_what_typer_refuses_reaches_no_command(arguments: tuple[str, ...], said: str) -> None:
    status, output, taken = outcome_of(*arguments)
    assert (status, taken) == (2, [])
    assert said in output


def test_the_help_is_that_of_the_command_and_of_the_fields() -> None:
    status, output, _ = outcome_of("--help")
    assert status == 0
    for words in ("Does nothing.", "Whose it is.", "P2PNET_TEST_NAME", "--peer", "[default: 8]"):
        assert words in output


def test_the_help_shows_flags_by_what_they_are_for() -> None:
    output = outcome_of("--help")[1]
    parts = ["Options", "--quiet", "Who", "--name", "Where", "--peer", "--places"]
    at = [output.index(f"{part} ") for part in parts]
    assert at == sorted(at)


def test_flags_stay_as_they_were_given() -> None:
    (flags,) = outcome_of("--name", "anna")[2]
    with pytest.raises(FrozenInstanceError):
        flags.places = 9  # type: ignore[misc]
