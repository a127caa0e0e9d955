"""`p2pnet top` as a command: against an HTTP server that says what a gateway says, on a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.processes import clean_environment, executable, free_port, run
from tests.terminal import Terminal
from tests.top.test_frame import TOLD


class Answers(BaseHTTPRequestHandler):
    """The overview, for whoever has the key."""

    key: str | None = None
    status = 200
    body = json.dumps(TOLD).encode()

    def do_GET(self) -> None:
        is_let_in = self.key is None or self.headers["authorization"] == f"Bearer {self.key}"
        self.send_response((self.status if self.path == "/p2pnet/v1/overview" else 404) if is_let_in else 401)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments: object) -> None:
        """Nothing to say."""


@contextmanager
def gateway(port: int = 0, **answers: object) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", port), type("Mine", (Answers,), answers)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_one_picture_on_a_pipe(tmp_path: Path) -> None:
    with gateway() as url:
        outcome = run("top", "--gateway", url, root=tmp_path)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "anna ..ft9HyQ6X" in outcome.stdout
    assert "\x1b" not in outcome.stdout


@pytest.mark.parametrize(
    ("answers", "sentence", "fix"),
    [
        ({"key": "secret"}, "asks for a key.", "--api-key-env"),
        ({"status": 404}, "has no overview", "Name a gateway of p2pnet with --gateway"),
        ({"status": 500}, "answered with status 500", "or name another with --gateway"),
        ({"body": b"<html>"}, "sends no overview that this version understands", "bring both to the same version"),
    ],
)
def test_what_goes_wrong_is_said(answers: dict[str, object], sentence: str, fix: str, tmp_path: Path) -> None:
    with gateway(**answers) as url:  # type: ignore[arg-type]
        outcome = run("top", "--once", "--gateway", url, root=tmp_path)
    assert outcome.status == 1
    assert sentence in outcome.stderr and fix in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://x", "http://", "x"])
def test_no_gateway(url: str, tmp_path: Path) -> None:
    outcome = run("top", "--once", "--gateway", url, root=tmp_path)
    assert outcome.status == 1
    assert "gateway" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_key_is_sent(tmp_path: Path) -> None:
    with gateway(key="secret") as url:
        flags = ("top", "--once", "--gateway", url, "--api-key-env", "MY_KEY")
        right = run(*flags, root=tmp_path, environment={"MY_KEY": "secret"})
        wrong = run(*flags, root=tmp_path, environment={"MY_KEY": "guess"})
        missing = run(*flags, root=tmp_path)
    assert right.status == 0
    assert (wrong.status, missing.status) == (1, 1)
    assert "this one will not do" in wrong.stderr
    assert "MY_KEY holds no key" in missing.stderr


def test_a_terminal_that_is_resized_is_drawn_anew_while_the_gateway_takes_its_time(tmp_path: Path) -> None:
    """Given a gateway that has answered once and then no more, when the terminal grows, then it is filled."""
    answers, is_over = iter([True]), threading.Event()

    class Slow(Answers):
        def do_GET(self) -> None:
            if not next(answers, False):
                is_over.wait(30)
            with suppress(BrokenPipeError):  # whoever asked has left
                super().do_GET()

    ours, theirs = pty.openpty()
    resize(theirs, 30, 60)
    environment = clean_environment(tmp_path / "data", tmp_path) | {"TERM": "xterm"}
    del environment["COLUMNS"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        command = [executable(), "top", "--gateway", f"http://127.0.0.1:{server.server_port}"]
        with subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True, preexec_fn=own
        ) as child:
            try:
                with Terminal(ours) as terminal:
                    os.close(theirs)
                    terminal.wait_for("anna", 30)
                    assert "KNOWN FOR" not in terminal.text
                    resize(ours, 40, 140)
                    terminal.wait_for("KNOWN FOR", 3)  # a gateway that does not answer is given up after five
                    terminal.type("q")
                    assert child.wait(20) == 0
            finally:
                is_over.set()
                server.shutdown()
                thread.join()
                if child.poll() is None:
                    child.send_signal(signal.SIGKILL)


def resize(descriptor: int, lines: int, columns: int) -> None:
    """Whoever has the terminal is told."""
    import termios

    termios.tcsetwinsize(descriptor, (lines, columns))


@pytest.mark.parametrize("leave", ["q", "\x03"])
def test_a_terminal_is_redrawn_and_left_as_it_was(leave: str, tmp_path: Path) -> None:
    """Given a gateway that is away, when it comes, then the network is shown; `q` and Ctrl-C leave."""
    port = free_port()
    ours, theirs = pty.openpty()
    environment = clean_environment(tmp_path / "data", tmp_path) | {"TERM": "xterm", "COLUMNS": "90", "LINES": "30"}
    command = [executable(), "top", "--gateway", f"http://127.0.0.1:{port}"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True, preexec_fn=own
    ) as child:
        try:
            os.close(theirs)
            with Terminal(ours) as terminal:
                terminal.wait_for("q leaves, trying again: There is no gateway at ", 30)
                with gateway(port):
                    terminal.wait_for("anna", 30)
                    terminal.wait_for("tokens/s", 30)
                terminal.wait_for("(?s)anna.*anna.*trying again", 30)  # what was known stays
                terminal.type(leave)
                assert child.wait(20) == 0
                terminal.rest()
                assert terminal.raw.endswith(
                    "\x1b[?25h\x1b[?1049l"
                )  # the cursor is back, and the screen that was there
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)


def own() -> None:
    """Ctrl-C reaches whoever has the terminal as its own."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
