"""The units of docs/operate: systemd itself reads them, and what they start and how they stop fits the commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from scripts.cli_docs import commands
from tests.processes import executable
from tests.requirements import requires_tools

OPERATE = Path(__file__).parents[2] / "docs" / "operate"
UNITS = sorted(OPERATE.glob("*.service"))
INSTALLED = "/opt/p2pnet/bin/p2pnet"
SLACK_S = 20
"""To end p2pd and say goodbye, after the drain."""

every_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


def test_there_are_units() -> None:
    assert [unit.name for unit in UNITS] == [
        "p2pnet-bootstrap.service",
        "p2pnet-gateway@.service",
        "p2pnet-worker.service",
    ]


@every_unit
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    """Where the program is elsewhere, systemd would say that it is missing: ours stands for it."""
    requires_tools("systemd-analyze")
    copy = tmp_path / unit.name.replace("@.", "@8000.")
    text = unit.read_text(encoding="utf-8")
    assert INSTALLED in text
    copy.write_text(text.replace(INSTALLED, executable()))
    command = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if unit.name.split(".")[0].rstrip("@") in line]
    assert (done.returncode, said) == (0, [])


@every_unit
def test_it_starts_a_command_that_exists(unit: Path) -> None:
    flags = {command.name: {name for flag in command.flags for name in flag.names} for command in commands()}
    _, name, *rest = shlex.split(_setting(unit, "ExecStart"))
    assert {word for word in rest if word.startswith("--")} <= flags[name]


@every_unit
def test_it_stops_in_order(unit: Path) -> None:
    """p2pd gets no signal of its own, and nobody is killed who still drains."""
    assert _setting(unit, "KillMode") == "mixed"
    drain = re.search(r"--drain-seconds (\d+)", unit.read_text(encoding="utf-8"))
    assert int(_setting(unit, "TimeoutStopSec")) >= SLACK_S + (int(drain[1]) if drain else 0)


def _setting(unit: Path, name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    return str(value)
