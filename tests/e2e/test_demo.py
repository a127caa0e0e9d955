"""`make demo`, as a newcomer runs it, without the installation."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 110


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demonstration, which is ended with all that it has started when a test has failed."""
    with subprocess.Popen(
        [sys.executable, "scripts/demo.py", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            for each in [process, *descendants(process.pid)] if process.poll() is None else []:
                each.kill()


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def assert_nothing_is_left(folder: Path) -> None:
    """No file of ours (torch keeps an empty cache folder there), and no process that was told of the folder."""
    assert [path.name for path in folder.iterdir() if "torch" not in path.name] == []
    left = [process for process in psutil.process_iter(["cmdline"]) if str(folder) in str(process.info["cmdline"])]
    assert left == []


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def assert_has_asked(output: str, taken_port: int) -> None:
    assert f"Port {taken_port} is in use" in output
    assert "p2pnet is a volunteer" in output
    assert "curl -N http://127.0.0.1:" in output


@pytest.mark.deep  # the other one does the same, and stays
def test_once_asks_a_question_although_the_port_is_in_use(tmp_path: Path, taken_port: int) -> None:
    with demo(tmp_path, "--once", "--port", str(taken_port)) as process:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert_has_asked(output, taken_port)
    assert_nothing_is_left(tmp_path)


def test_it_asks_and_serves_until_ctrl_c_and_leaves_nothing(tmp_path: Path, taken_port: int) -> None:
    with demo(tmp_path, "--port", str(taken_port)) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Serving until Ctrl-C" in line:
                break
        else:
            raise AssertionError("".join(lines))
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, rest
    assert_has_asked("".join(lines) + rest, taken_port)
    assert_nothing_is_left(tmp_path)
