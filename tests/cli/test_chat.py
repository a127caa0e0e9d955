"""`p2pnet chat` as a command, against an HTTP server that says what a gateway says."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.processes import clean_environment, executable, run
from tests.terminal import Terminal

MODELS = [{"id": "base", "features": ["text"]}, {"id": "chats", "features": ["chat"]}]
NO_PROXY_THERE = {
    "HTTP_PROXY": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "NO_PROXY": "",
    "no_proxy": "",
}


class Answers(BaseHTTPRequestHandler):
    """Says back what it was asked, with the model's name before it."""

    models: list[dict[str, Any]] = MODELS

    def do_GET(self) -> None:
        name = unquote(self.path.removeprefix("/v1/models").removeprefix("/"))
        if name and name not in [model["id"] for model in self.models]:
            self._say(404, json.dumps({"error": {"message": f"The model {name} does not exist."}}))
            return
        self._say(200, json.dumps({"data": self.models}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked["model"] not in [model["id"] for model in self.models]:
            self._say(404, json.dumps({"error": {"message": f"The model {asked['model']} does not exist."}}))
            return
        text = f"{asked['model']}: {' / '.join(message['content'] for message in asked['messages'])}"
        self._say(200, f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\ndata: [DONE]\n\n")

    def _say(self, status: int, body: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing to say."""


@contextmanager
def gateway(**answers: object) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Answers,), answers)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_first_model_that_chats_answers_and_no_proxy_is_asked_on_this_machine(tmp_path: Path) -> None:
    with gateway() as url:
        outcome = run("chat", "--gateway", url, "-m", "hi", root=tmp_path, environment=NO_PROXY_THERE)
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, "chats: hi\n", "")


@pytest.mark.parametrize(
    ("models", "arguments", "sentence", "fix"),
    [
        (MODELS, ("--model", "other"), "The model other does not exist.", "Name one of these with --model: chats."),
        ([], ("--model", "other"), "The model other does not exist.", "No model that chats is there."),
        (MODELS[:1], (), "No worker serves a model that chats at the moment.", "p2pnet serve"),
    ],
)
def test_a_model_that_cannot_be_had_is_said_with_those_that_can(
    models: list[dict[str, Any]], arguments: tuple[str, ...], sentence: str, fix: str, tmp_path: Path
) -> None:
    with gateway(models=models) as url:
        outcome = run("chat", "--gateway", url, "-m", "hi", *arguments, root=tmp_path)
    assert outcome.status == 1
    assert sentence in outcome.stderr and fix in outcome.stderr


@contextmanager
def talk(tmp_path: Path, columns: int = 80) -> Iterator[Terminal]:
    """A chat on a terminal that is so wide; it is over at the end, with status 0."""
    ours, theirs = pty.openpty()
    environment = clean_environment(tmp_path / "data", tmp_path) | {"TERM": "xterm", "COLUMNS": str(columns)}
    with gateway(models=[*MODELS, {"id": "other/one", "features": ["chat"]}]) as url:
        command = [executable(), "chat", "--gateway", url]
        with subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        ) as child:
            try:
                os.close(theirs)
                with Terminal(ours) as terminal:
                    terminal.wait_for("Ctrl-D leaves", 30)
                    yield terminal
                    terminal.type("\x04")
                    assert child.wait(20) == 0
            finally:
                if child.poll() is None:
                    child.send_signal(signal.SIGKILL)


def test_commands_change_the_model_and_forget_what_was_said(tmp_path: Path) -> None:
    with talk(tmp_path) as terminal:
        for typed, said in (
            ("/help", "/clear +forget what was said"),
            ("/model", r"\* chats\s+other/one"),
            ("one", "chats: one\n"),
            ("/model nobody", r"Error: The model nobody does not exist\.\s+Name one of these"),
            ("two", "chats: one / chats: one / two\n"),
            ("/model other/one", "Talking to other/one"),
            ("/clear", "What was said is forgotten"),
            ("/etc/hosts", "other/one: /etc/hosts\n"),
            ("/foo", "Error: There is no /foo"),
            (" /foo", "other/one: /etc/hosts / other/one: /etc/hosts / /foo\n"),
        ):
            terminal.type(f"{typed}\n")
            terminal.wait_for(said, 10)


def test_on_a_terminal_lines_end_between_words(tmp_path: Path) -> None:
    with talk(tmp_path, columns=24) as terminal:
        terminal.type("/foo\n")
        terminal.wait_for("Error: There is no /foo\\.\n/help says what there\nis\\. With a space", 10)
        terminal.type("some words that go on\n")
        terminal.wait_for("chats: some words that\ngo on\n", 10)
