"""The shell's completion: scripts for the usual shells, and what bash is offered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import run


def offered(root: Path, words: str, position: int) -> set[str]:
    environment = {"_P2PNET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    outcome = run(root=root, environment=environment)
    assert outcome.stderr == ""
    return set(outcome.stdout.split())


@pytest.mark.parametrize(
    ("words", "position", "expected"),
    [
        ("p2pnet ", 1, {"serve", "gateway", "top", "doctor", "service", "chat"}),
        ("p2pnet do", 1, {"doctor"}),
        ("p2pnet serve --no-p", 2, {"--no-panel"}),
        ("p2pnet serve --model ", 3, {"tiny"}),
        ("p2pnet serve --device ", 3, {"auto", "cpu", "cuda", "mps", "vulkan"}),
        ("p2pnet service ", 2, {"install", "uninstall", "show"}),
    ],
)
def test_what_bash_is_offered(words: str, position: int, expected: set[str], tmp_path: Path) -> None:
    found = offered(tmp_path, words, position)
    assert expected <= found
    assert len(found) == len(expected) or words == "p2pnet "


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str, tmp_path: Path) -> None:
    outcome = run(root=tmp_path, environment={"_P2PNET_COMPLETE": f"source_{shell}"})
    assert outcome.status == 0
    assert f"_P2PNET_COMPLETE=complete_{shell}" in outcome.stdout.replace("env ", "")
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=outcome.stdout, text=True, check=True)


def test_completing_imports_nothing_heavy() -> None:
    script = (
        "import sys, os; os.environ.update(_P2PNET_COMPLETE='complete_bash', COMP_WORDS='p2pnet serve --model ',"
        " COMP_CWORD='3')\nfrom p2pnet.cli.main import app\ntry:\n    app(prog_name='p2pnet')\n"
        "except SystemExit:\n    print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "tiny" in loaded
    assert loaded & {"torch", "hivemind", "transformers", "fastapi", "numpy", "httpx", "rich.live"} == set()
