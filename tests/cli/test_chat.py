"""`p2pnet chat` as a command, against an HTTP server that says what a gateway says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run

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
        self._say(200, json.dumps({"data": self.models}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked["model"] not in [model["id"] for model in self.models]:
            self._say(404, json.dumps({"error": {"message": f"The model {asked['model']} does not exist."}}))
            return
        text = f"{asked['model']}: {asked['messages'][-1]['content']}"
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
