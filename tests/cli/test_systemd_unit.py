"""The unit's text: every argument arrives as it was given, and systemd finds nothing wrong with it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from p2pnet.cli.systemd_unit import Service, is_untouched, quoted, unit_text
from p2pnet.errors import UsageError
from tests.requirements import requires_tools

WORKER = Service("worker", ("/bin/sh",), ("serve", "--model", "tiny"), "/tmp", 45.0)


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("--model", "--model"),
        ("/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/0"),
        ("", '""'),
        ("two words", '"two words"'),
        ("100%", "100%%"),
        ("$HOME", '"$$HOME"'),
        (";", '";"'),
        ('say "so"', r'"say \"so\""'),
        ("back\\slash", r'"back\\slash"'),
        ("it's", '"it\'s"'),
        ("mon-fri 19:00-08:00, sat-sun", '"mon-fri 19:00-08:00, sat-sun"'),
    ],
)
def test_quoting(argument: str, written: str) -> None:
    assert quoted(argument) == written


@pytest.mark.parametrize("argument", ["a\nb", "a\x00b", "a\rExecStartPre=/bin/evil"])
def test_what_no_unit_can_hold(argument: str) -> None:
    with pytest.raises(UsageError, match="cannot stand in a systemd unit"):
        unit_text(replace(WORKER, arguments=(argument,)))


def test_a_worker_is_given_the_time_to_stop() -> None:
    text = unit_text(WORKER)
    assert "TimeoutStopSec=75\n" in text
    assert "KillMode=mixed\n" in text
    assert "Nice=10\n" in text
    assert "Nice=" not in unit_text(replace(WORKER, role="gateway"))


def test_a_change_by_hand_is_noticed() -> None:
    text = unit_text(WORKER)
    assert is_untouched(text)
    assert not is_untouched(text.replace("Nice=10", "Nice=5"))
    assert not is_untouched("[Service]\nExecStart=/bin/true\n")
    assert not is_untouched("")


@pytest.mark.parametrize("role", ["worker", "gateway", "bootstrap"])
def test_systemd_finds_nothing_wrong(role: str, tmp_path: Path) -> None:
    requires_tools("systemd-analyze")
    path = tmp_path / f"p2pnet-{role}.service"
    odd = ('a "b" $x %h', "back\\slash", ";", "it's")
    path.write_text(unit_text(replace(WORKER, role=role, arguments=odd, folder=str(tmp_path))))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(path)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_stop_before_it_serves_is_no_failure() -> None:
    """Its exit status is the signal's then."""
    assert "\nSuccessExitStatus=130 143\n" in unit_text(Service("worker", ("p2pnet",), ("serve",), "/home/ann"))
