"""`p2pnet serve` on a terminal: log lines, the panel below them, and a clean terminal at the end. A real worker."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.processes import TCP_AND_QUIC_ON_LOOPBACK, Start, clean_environment, executable, processes, wait_until
from tests.terminal import Terminal

pytestmark = pytest.mark.timeout(300)

WIDTH = 60


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    with processes("panel") as starting:
        yield starting


@pytest.fixture(scope="module")
def address(start: Start) -> str:
    return start.bootstrap().ready.address


@contextmanager
def serving(start: Start, *arguments: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    """`p2pnet serve` on a terminal of its own."""
    temp = start.root / "tmp"
    temp.mkdir(exist_ok=True)
    ours, theirs = pty.openpty()
    environment = clean_environment(start.root / "data", temp) | {"TERM": "xterm", "COLUMNS": str(WIDTH)}
    command = [executable(), "serve", "--model", "tiny", *TCP_AND_QUIC_ON_LOOPBACK, *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as child:
        os.close(theirs)
        with Terminal(ours) as terminal:
            try:
                yield terminal, child
            finally:
                if child.poll() is None:
                    child.send_signal(signal.SIGTERM)
                    child.wait(60)


def test_a_panel_below_the_log(start: Start, address: str) -> None:
    """Given a worker on a terminal, when it serves, is paused and stopped, then the panel says so, each log line is
    there once, and the terminal is left clean."""
    gateway = start.gateway(peer=address).ready.http
    with serving(start, "--name", "anna", "--initial-peers", address) as (terminal, child):
        terminal.wait_for("serving")
        assert re.search(r"worker +anna \(\.\..{8}\), up \d+ s", terminal.text)
        assert re.search(r"joined +1 peer, reached on this machine only", terminal.text)
        assert re.search(r"models +tiny \(generate, embed\): 16 slots", terminal.text)
        wait_until(lambda: _ask(str(gateway)) == 200, "the gateway has found the worker")
        terminal.wait_for("1 answered")
        terminal.wait_for("7 given")
        child.send_signal(signal.SIGUSR1)
        terminal.wait_for("INFO    paused by SIGUSR1")
        terminal.wait_for(r"state +paused by SIGUSR1, until it comes again")
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
        screen = terminal.rest()
    assert screen.count("INFO    paused by SIGUSR1") == 1
    assert screen.count("The worker is ready: it serves tiny.") == 1
    assert re.search(r"Stopping\..*Answered 1 request with 7 tokens in \d+ s\.\s*$", screen, re.DOTALL)
    assert terminal.raw.rstrip().rfind("\x1b[?25h") > terminal.raw.rfind("\x1b[?25l")  # the cursor is back
    assert "Traceback" not in screen


def test_no_panel_where_none_is_wanted(start: Start, address: str) -> None:
    with serving(start, "--no-panel", "--initial-peers", address) as (terminal, child):
        terminal.wait_for("Ctrl-C stops it.")
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
        screen = terminal.rest()
    assert "Stopping." in screen
    assert "answered" not in screen
    assert not re.search(r"^(joined|state|requests)", screen, re.MULTILINE)


def _ask(gateway: str) -> int:
    body = {"model": "tiny", "prompt": "Hello", "max_tokens": 7, "ignore_eos": True}
    return httpx.post(f"{gateway}/v1/completions", json=body, headers={"x-p2pnet-wait-s": "0"}, timeout=60).status_code
