"""`p2pnet service` as a command: what it writes, what it refuses, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Outcome, executable, run

FLAGS = ("--model", "tiny", "--schedule", "22:00-07:00, sat-sun 00:00-24:00", "--drain-seconds", "60")


def service(root: Path, *arguments: str, **environment: str) -> Outcome:
    config = {"XDG_CONFIG_HOME": str(root / "config")}
    return run("service", *arguments, root=root, environment=config | environment)


def unit(root: Path, role: str = "worker") -> Path:
    return root / "config" / "systemd" / "user" / f"p2pnet-{role}.service"


def test_install_and_uninstall(tmp_path: Path) -> None:
    """A second install with other flags takes the place of the first; a unit changed by hand is kept."""
    outcome = service(tmp_path, "install", "worker", "--", *FLAGS)
    assert outcome.status == 0
    assert "systemctl --user enable --now p2pnet-worker.service" in outcome.stdout
    assert "loginctl enable-linger" in outcome.stdout
    text = unit(tmp_path).read_text()
    schedule = '"22:00-07:00, sat-sun 00:00-24:00"'
    start = f"ExecStart={executable()} serve --model tiny --schedule {schedule} --drain-seconds 60\n"
    assert start in text
    assert "TimeoutStopSec=90\n" in text
    assert service(tmp_path, "show", *FLAGS).stdout == text
    assert service(tmp_path, "install", "--model", "tiny").status == 0  # the role may be left out
    assert "serve --model tiny\n" in unit(tmp_path).read_text()

    unit(tmp_path).write_text(text.replace("Nice=10", "Nice=5"))
    for arguments in (("install", "--model", "tiny"), ("uninstall",)):
        refused = service(tmp_path, *arguments)
        assert refused.status == 1
        assert "has been changed by hand" in refused.stderr and "--force" in refused.stderr
    assert "Nice=5" in unit(tmp_path).read_text()
    wanted = unit(tmp_path).parent / "default.target.wants"
    wanted.mkdir()
    (wanted / unit(tmp_path).name).symlink_to(unit(tmp_path))
    assert service(tmp_path, "uninstall", "--force").status == 0
    assert not unit(tmp_path).exists() and list(wanted.iterdir()) == []
    assert "There is no unit" in service(tmp_path, "uninstall").stderr


def test_other_roles(tmp_path: Path) -> None:
    assert service(tmp_path, "install", "gateway", "--", "--port", "8001").status == 0
    assert service(tmp_path, "install", "bootstrap").status == 0
    assert "gateway --port 8001\n" in unit(tmp_path, "gateway").read_text()
    assert "p2pnet bootstrap\n" in unit(tmp_path, "bootstrap").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("worker", "--", "--model", "tiny", "--max-concurrency", "0"), 2, "--max-concurrency"),
        (("worker", "--", "--no-such-flag"), 2, "--no-such-flag"),
        (("gateway", "--", "--model", "tiny"), 2, "--model"),
        (("worker",), 1, "There is nothing to serve"),
        (("wroker", "--", "--model", "tiny"), 1, "'wroker' is no role"),
        (("worker", "--", "--model", "a\nb"), 1, "cannot stand in a systemd unit"),
    ],
)
def test_flags_are_checked_before_anything_is_written(
    arguments: tuple[str, ...], status: int, said: str, tmp_path: Path
) -> None:
    outcome = service(tmp_path, "install", *arguments)
    assert outcome.status == status
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not unit(tmp_path).exists()


def test_this_shells_variables_are_not_the_services(tmp_path: Path) -> None:
    assert "nothing to serve" in service(tmp_path, "install", P2PNET_MODEL="tiny").stderr
    outcome = service(tmp_path, "install", "--model", "tiny", P2PNET_NAME="anna")
    assert "P2PNET_NAME" in outcome.stderr and "systemctl --user edit" in outcome.stderr
