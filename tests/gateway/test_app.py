"""The HTTP edge: statuses, error shapes, request ids, health, limits, and clients that go away or stop reading."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.app import create_app, failure_response
from gateway.http.access import Access
from gateway.http.edge import Edge
from gateway.http.failures import OUTCOMES
from gateway.http.limits import HttpLimits
from gateway.http.proxies import Proxies
from gateway.http.uploads import Uploads
from p2pnet.errors import (
    Busy,
    ContextOverflow,
    Draining,
    InvalidRequest,
    ModelNotFound,
    NoWorker,
    P2PNetError,
    PeerLost,
    PeerUnreachable,
    ProtocolViolation,
    WorkerFailed,
)
from p2pnet.messages import Accepted, GenerateRequest, TextDelta
from tests.gateway.asgi_call import AsgiCall
from tests.gateway.fake_generate import FakeGenerate, Step, answer, service

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**BODY, "stream": True}
QUICK = HttpLimits(keep_alive_s=0.001)


def client(generate: FakeGenerate, limits: HttpLimits | None = None, is_ready: bool = True) -> httpx.AsyncClient:
    app = create_app(service(generate, is_ready), limits)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = document["error"]
    return error


STATUSES: list[tuple[P2PNetError, int, str | None, str | None]] = [
    (InvalidRequest("no", "stop"), 400, "stop", None),
    (ContextOverflow("too long"), 400, None, None),
    (ModelNotFound("no such model"), 404, "model", None),
    (Busy("full"), 429, None, "1"),
    (Draining("stopping"), 503, None, "1"),
    (NoWorker("nobody"), 503, None, "5"),
    (PeerUnreachable("gone"), 503, None, "1"),
    (PeerLost("gone"), 503, None, "1"),
    (WorkerFailed("broken"), 502, None, None),
    (ProtocolViolation("odd"), 502, None, None),
]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("error", "status", "param", "retry_after"), STATUSES, ids=lambda value: str(value))
async def test_an_error_before_accepted_is_a_status(
    error: P2PNetError, status: int, param: str | None, retry_after: str | None, is_stream: bool
) -> None:
    async with client(FakeGenerate(error)) as http:
        response = await http.post(CHAT, json={**BODY, "stream": is_stream})
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after
    assert response.headers["x-request-id"]
    found = error_of(response)
    assert (found["code"], found["param"], found["message"]) == (error.code, param, str(error))


async def test_an_error_after_accepted_is_still_a_status_when_nothing_streams() -> None:
    async with client(FakeGenerate(Accepted(1), TextDelta("a"), PeerLost("gone"))) as http:
        response = await http.post(CHAT, json=BODY)
    assert response.status_code == 503
    assert error_of(response)["code"] == "peer_lost"


@pytest.mark.parametrize(
    "steps",
    [
        [Accepted(1), TextDelta("a"), PeerLost("gone")],
        [Accepted(1), TextDelta("a")],
        [Accepted(1), TextDelta("a"), KeyError("x")],
    ],
    ids=["lost", "ended", "unexpected"],
)
async def test_a_broken_stream_never_looks_complete(steps: list[Step]) -> None:
    async with client(FakeGenerate(*steps)) as http:
        response = await http.post(CHAT, json=STREAM)
    assert response.status_code == 200
    events = [line for line in response.text.split("\n\n") if line]
    assert "error" in json.loads(events[-1].removeprefix("data: "))
    assert "[DONE]" not in response.text
    assert '"finish_reason":"' not in response.text


async def test_every_error_has_a_row_in_the_table() -> None:
    def family(kind: type[P2PNetError]) -> set[type[P2PNetError]]:
        return {kind}.union(*(family(child) for child in kind.__subclasses__()))

    assert {kind.code for kind in family(P2PNetError)} <= set(OUTCOMES)


async def test_an_unexpected_error_is_logged_once_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with client(FakeGenerate(RuntimeError("secret"))) as http:
        response = await http.post(CHAT, json=BODY, headers={"x-request-id": "mine"})
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == "mine"
    assert [record.name for record in caplog.records] == ["gateway.http.edge"]


async def test_an_error_in_the_middle_of_a_response_does_not_start_another() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("secret")

    call = AsgiCall(Edge(broken, lambda: "0123", failure_response, Access(), Proxies(), None, Uploads()), CHAT, BODY)
    await call.task
    assert [message["type"] for message in call.sent] == ["http.response.start"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "unknown_url"),
        ("POST", "/v1/nowhere", 404, "unknown_url"),
        ("POST", CHAT + "/", 404, "unknown_url"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/none/such", 404, "model_not_found"),
    ],
)
async def test_routes_that_are_not_there(method: str, path: str, status: int, code: str) -> None:
    async with client(FakeGenerate()) as http:
        response = await http.request(method, path)
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert response.headers["x-request-id"]
    assert ("allow" in response.headers) == (status == 405)


async def test_a_bad_body_is_a_400_that_names_the_field() -> None:
    async with client(FakeGenerate()) as http:
        responses = [
            await http.post(CHAT, content=b"{"),
            await http.post(CHAT, json={**BODY, "temperature": "hot"}),
            await http.post(COMPLETIONS, json={"model": "tiny"}),
        ]
    assert [response.status_code for response in responses] == [400, 400, 400]
    assert [error_of(response)["param"] for response in responses] == [None, "temperature", "prompt"]


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [
        ("abc-123", True),
        ("with a space", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("é", False),
        ("tab\tinside", False),
    ],
)
async def test_request_ids(sent: str, is_kept: bool) -> None:
    generate = FakeGenerate(*answer("a"))
    async with client(generate) as http:
        response = await http.post(CHAT, json=BODY, headers={b"x-request-id": sent.encode()})
    assert response.headers["x-request-id"] == (sent if is_kept else "0123")
    assert generate.requests[0].request_id == response.headers["x-request-id"]


async def test_a_stream_has_its_request_id_and_is_not_to_be_buffered() -> None:
    async with client(FakeGenerate(*answer("a"))) as http:
        response = await http.post(CHAT, json=STREAM, headers={"x-request-id": "mine"})
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "content-length" not in response.headers


@pytest.mark.parametrize(
    ("path", "is_ready", "status"),
    [("/health", False, 200), ("/livez", False, 200), ("/readyz", False, 503), ("/readyz", True, 200)],
)
async def test_health(path: str, is_ready: bool, status: int) -> None:
    async with client(FakeGenerate(), is_ready=is_ready) as http:
        response = await http.get(path)
    assert response.status_code == status
    assert response.json()["ready"] is is_ready
    assert response.headers["x-request-id"]


async def test_a_body_over_the_cap_is_a_413_however_it_comes() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    async with client(FakeGenerate(), HttpLimits(max_body_bytes=1000)) as http:
        for content in (b"x" * 1001, parts()):
            response = await http.post(CHAT, content=content)
            assert response.status_code == 413
            assert error_of(response)["code"] == "request_too_large"
            assert error_of(response)["message"].endswith("1000 bytes: shorten it, or make its images smaller.")
        assert (await http.post(CHAT, content=b" " * 1000)).status_code == 400


async def test_a_body_that_never_comes_is_a_408() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with client(FakeGenerate(), HttpLimits(body_timeout_s=0.001)) as http:
        response = await http.post(CHAT, content=nothing())
    assert response.status_code == 408
    assert error_of(response)["code"] == "request_timeout"


async def test_the_documentation_is_served() -> None:
    async with client(FakeGenerate()) as http:
        assert CHAT in (await http.get("/openapi.json")).json()["paths"]


async def test_deltas_that_wait_go_out_in_one_write() -> None:
    call = AsgiCall(create_app(service(FakeGenerate(*answer(*"abcdefgh")))), CHAT, STREAM)
    await call.task
    assert call.is_complete
    assert len(call.bodies) == 1
    assert call.bodies[0].count(b"data: ") == 11


async def test_the_status_waits_for_accepted() -> None:
    gate = asyncio.Event()
    generate = FakeGenerate(gate, *answer("a"))
    call = AsgiCall(create_app(service(generate)), CHAT, STREAM)
    await generate.is_waiting.wait()
    assert call.sent == []
    gate.set()
    await call.task
    assert call.is_complete


async def test_keep_alives_while_waiting_for_accepted_and_then_an_error_event() -> None:
    gate = asyncio.Event()
    call = AsgiCall(create_app(service(FakeGenerate(gate, Busy("full"))), QUICK), CHAT, STREAM)
    await call.until_sent(b": keep-alive\n\n: keep-alive\n\n")
    assert call.sent[0]["status"] == 200
    gate.set()
    await call.task
    assert b'"code":"busy"' in call.bodies[-1]
    assert b"[DONE]" not in b"".join(call.bodies)


async def test_keep_alives_in_a_silence_between_deltas() -> None:
    gate = asyncio.Event()
    accepted, first, *rest = answer("a", "b")
    call = AsgiCall(create_app(service(FakeGenerate(accepted, first, gate, *rest)), QUICK), CHAT, STREAM)
    await call.until_sent(b'"a"')
    await call.until_sent(b": keep-alive\n\n")
    gate.set()
    await call.task
    assert b"".join(call.bodies).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "before", [[], [Accepted(1)], [Accepted(1), TextDelta("a")]], ids=["first", "accepted", "delta"]
)
async def test_a_client_that_goes_away_closes_its_generation(before: list[Step], is_stream: bool) -> None:
    generate = FakeGenerate(*before, asyncio.Event())
    call = AsgiCall(create_app(service(generate)), CHAT, {**BODY, "stream": is_stream})
    await generate.is_waiting.wait()
    assert (generate.opened, generate.closed) == (1, 0)
    call.disconnect()
    await call.task
    assert (generate.opened, generate.closed) == (1, 1)
    assert not call.is_complete


async def test_a_client_that_goes_away_closes_a_generation_that_never_pauses() -> None:
    generate = FakeGenerate()
    generate.script = lambda _: (TextDelta("a") for _ in iter(int, 1))
    call = AsgiCall(create_app(service(generate)), CHAT, STREAM)
    await call.until_sent(b'"a"')
    call.disconnect()
    await call.task
    assert generate.closed == 1


async def test_a_cancelled_request_closes_its_generation() -> None:
    generate = FakeGenerate(Accepted(1), asyncio.Event())
    call = AsgiCall(create_app(service(generate)), CHAT, STREAM)
    await generate.is_waiting.wait()
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert generate.closed == 1


async def test_a_client_that_reads_slowly_holds_the_generation_back() -> None:
    generate = FakeGenerate()
    ahead: list[int] = []

    def script(_: GenerateRequest) -> Iterator[Step]:
        for step in answer(*(str(i) for i in range(500))):
            ahead.append(generate.yielded - b"".join(call.bodies).count(b"data: "))
            yield step

    generate.script = script
    call = AsgiCall(create_app(service(generate), HttpLimits(read_ahead_events=10)), CHAT, STREAM)
    call.may_send.clear()
    await call.is_blocked.wait()
    call.may_send.set()
    await call.task
    assert call.is_complete
    assert b"".join(call.bodies).count(b'"content":') == 501
    assert max(ahead) <= 20  # one batch that waits, and one that is being written


async def test_a_client_that_stops_reading_loses_its_generation() -> None:
    generate = FakeGenerate(*answer(*(str(i) for i in range(1000))))
    limits = HttpLimits(read_ahead_events=10, write_timeout_s=0.001)
    call = AsgiCall(create_app(service(generate), limits), CHAT, STREAM)
    await call.until_sent(b"assistant")
    call.may_send.clear()
    await call.task
    assert generate.closed == 1
    assert not call.is_complete
