"""The one table of errors, as each of the four dialects tells it: status, shape, when to come back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.http.access import Access, KeyRing, RateLimited, Unauthorized
from gateway.http.failures import OUTCOMES, describe
from gateway.http.json_response import CHALLENGE
from gateway.http.keys import ApiKey, hash_key, write_keys
from gateway.http.limits import HttpLimits
from gateway.surfaces.anthropic.routes import TOO_LONG
from p2pnet.errors import (
    Busy,
    ContextOverflow,
    DeadlineExceeded,
    Draining,
    FeatureMissing,
    InvalidRequest,
    ModelNotFound,
    NotAllowed,
    NoWorker,
    P2PNetError,
    PeerLost,
    PeerUnreachable,
    ProtocolViolation,
    WorkerFailed,
)
from p2pnet.messages import Accepted, TextDelta
from tests.gateway.fake_generate import FakeGenerate, Step, answer, service

MESSAGES = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Told:
    """An error as a client was told of it. What its dialect does not say is None."""

    message: str
    type: str | None = None
    code: str | None = None


def openai_error(document: dict[str, Any]) -> Told:
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    return Told(document["error"]["message"], document["error"]["type"], document["error"]["code"])


def anthropic_error(document: dict[str, Any]) -> Told:
    assert set(document) == {"type", "error"} and document["type"] == "error"
    assert set(document["error"]) == {"type", "message"}
    return Told(document["error"]["message"], document["error"]["type"])


def ollama_error(document: dict[str, Any]) -> Told:
    assert set(document) == {"error"}
    return Told(document["error"])


DIALECTS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "openai chat": ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES}, openai_error),
    "openai completions": ("/v1/completions", {"model": "tiny", "prompt": "hi"}, openai_error),
    "openai responses": ("/v1/responses", {"model": "tiny", "input": "hi"}, openai_error),
    "fauxpilot": ("/v1/engines/codegen/completions", {"prompt": "hi"}, openai_error),
    "ollama chat": ("/api/chat", {"model": "tiny", "messages": MESSAGES}, ollama_error),
    "ollama generate": ("/api/generate", {"model": "tiny", "prompt": "hi"}, ollama_error),
    "anthropic": ("/v1/messages", {"model": "tiny", "messages": MESSAGES, "max_tokens": 9}, anthropic_error),
}

STATUSES: list[tuple[P2PNetError, int, int | None, str, str]] = [
    (InvalidRequest("bad"), 400, None, "invalid_request_error", "invalid_request_error"),
    (ContextOverflow("too long"), 400, None, "invalid_request_error", "invalid_request_error"),
    (FeatureMissing("not here", "x"), 400, None, "invalid_request_error", "invalid_request_error"),
    (Unauthorized("no key"), 401, None, "invalid_request_error", "authentication_error"),
    (ModelNotFound("unknown"), 404, None, "invalid_request_error", "not_found_error"),
    (Busy("full"), 429, 1, "rate_limit_error", "rate_limit_error"),
    (Busy("full", 6.2), 429, 7, "rate_limit_error", "rate_limit_error"),
    (RateLimited("too often", 30), 429, 30, "rate_limit_error", "rate_limit_error"),
    (NoWorker("nobody"), 503, 5, "server_error", "overloaded_error"),
    (Draining("stopping"), 503, 1, "server_error", "overloaded_error"),
    (NotAllowed("not you"), 503, 5, "server_error", "overloaded_error"),
    (PeerLost("gone"), 503, 1, "server_error", "overloaded_error"),
    (PeerUnreachable("gone"), 503, 1, "server_error", "overloaded_error"),
    (DeadlineExceeded("in vain"), 504, 5, "server_error", "timeout_error"),
    (DeadlineExceeded("in vain", 2.5), 504, 3, "server_error", "timeout_error"),
    (WorkerFailed("broken"), 502, None, "server_error", "api_error"),
    (ProtocolViolation("odd"), 502, None, "server_error", "api_error"),
]
"""The error, its status, when to come back, and its type in the words of OpenAI and of Anthropic."""


def client(generate: FakeGenerate, limits: HttpLimits | None = None, access: Access | None = None) -> httpx.AsyncClient:
    app = create_app(service(generate), limits, access)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_before_the_answer_has_its_status_in_every_dialect(dialect: str, is_stream: bool) -> None:
    path, body, read = DIALECTS[dialect]
    generate = FakeGenerate()
    async with client(generate) as http:
        for error, status, retry_after, openai_type, anthropic_type in STATUSES:
            generate.script = lambda _, error=error: [error]  # type: ignore[misc]
            response = await http.post(path, json={**body, "stream": is_stream})
            assert response.status_code == status, error.code
            assert response.headers.get("retry-after") == (None if retry_after is None else str(retry_after))
            assert response.headers["content-type"] == "application/json"
            assert response.headers["x-request-id"] == response.headers["request-id"]
            told = read(response.json())
            expected = {openai_error: openai_type, anthropic_error: anthropic_type, ollama_error: None}[read]
            assert told.type == expected
            assert told.code in (None, error.code)
            if not dialect.startswith("ollama"):  # which has words of its own for some
                is_too_long = dialect == "anthropic" and isinstance(error, ContextOverflow)
                assert told.message == (f"{TOO_LONG} {error.message}" if is_too_long else error.message)


LAST: dict[str, str] = {"openai responses": "response.failed", "anthropic": "error"}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_in_the_middle_of_a_stream_is_its_last_event_in_every_dialect(dialect: str) -> None:
    path, body, read = DIALECTS[dialect]
    steps: list[Step] = [Accepted(1), TextDelta("a"), DeadlineExceeded("in vain")]
    async with client(FakeGenerate(*steps)) as http:
        response = await http.post(path, json={**body, "stream": True})
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    if dialect.startswith("ollama"):
        assert read(json.loads(response.text.splitlines()[-1])).message == "in vain"
        return
    *_, kind, data = ["", *response.text.rstrip("\n").split("\n\n")[-1].split("\n")]
    assert kind == (f"event: {LAST[dialect]}" if dialect in LAST else "")
    document = json.loads(data.removeprefix("data: "))
    if dialect == "openai responses":
        assert "in vain" in document["response"]["error"]["message"]
    else:
        assert read(document).message == "in vain"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_edges_own_errors_have_the_dialects_shape(dialect: str, tmp_path: Path) -> None:
    """A body over the cap, a wrong method, no key, a key that is spent: nothing of it reaches the surface."""
    path, body, read = DIALECTS[dialect]
    async with client(FakeGenerate(), HttpLimits(max_body_bytes=100)) as http:
        large = await http.post(path, content=b"x" * 101)
        wrong = await http.request("PATCH", path)
    write_keys(tmp_path / "keys", [ApiKey("anna", hash_key("secret"), requests_per_minute=1)])
    async with client(FakeGenerate(*answer("Hi")), access=Access(KeyRing(tmp_path / "keys"))) as http:
        nobody = await http.post(path, json=body)
        stranger = await http.post(path, json=body, headers={"x-api-key": "guessed"})
        first = await http.post(path, json={**body, "stream": False}, headers={"authorization": "Bearer secret"})
        second = await http.post(path, json=body, headers={"authorization": "Bearer secret"})
    assert first.status_code == 200
    refused = (large, wrong, nobody, stranger, second)
    assert [response.status_code for response in refused] == [413, 405, 401, 401, 429]
    assert [response.headers.get("retry-after") for response in refused] == [None, None, None, None, "60"]
    assert [response.headers.get("www-authenticate") for response in refused] == [None, None, *[CHALLENGE] * 2, None]
    assert "allow" in wrong.headers
    types = [read(response.json()).type for response in refused]
    if read is anthropic_error:
        assert types == [
            "request_too_large",
            "invalid_request_error",
            *["authentication_error"] * 2,
            "rate_limit_error",
        ]


def test_every_row_says_what_it_is_for() -> None:
    """What another request may be answered better comes with the time to wait; what is the client's fault does not."""
    for code, outcome in OUTCOMES.items():
        assert 400 <= outcome.status <= 504, code
        assert (outcome.retry_after_s is not None) == (outcome.status in (429, 503, 504)), code


def test_what_was_not_raised_on_purpose_tells_nothing() -> None:
    described = describe(RuntimeError("/home/secret"))
    assert (described.status, described.code) == (500, "internal")
    assert "secret" not in described.message
