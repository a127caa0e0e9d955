"""docs/operate/nginx.conf in the real nginx, before the real HTTP half of a gateway: streams, addresses, limits."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.http.edge import MAX_WAIT_S
from gateway.http.limits import MAX_BODY_BYTES
from gateway.http.proxies import parse_proxies
from gateway.http.server import KEEP_ALIVE_CONNECTION_S, HttpServer, serve_http
from p2pnet.config import GuardConfig
from p2pnet.messages import Accepted, TextDelta
from tests.gateway.fake_generate import FakeGenerate, answer, service
from tests.operate.nginx import CONFIGURATION, Nginx, nginx
from tests.processes import wait_until
from tests.requirements import requires_tools

PATH = "/v1/completions"
BODY = {"model": "tiny", "prompt": "a"}
STREAM = {**BODY, "stream": True}
BURST = 21
"""What the file lets one caller send at once: `burst`, and the one that is in time."""


@dataclass
class Site:
    """nginx before a gateway whose answers are `generate`."""

    nginx: Nginx
    gateway: HttpServer
    generate: FakeGenerate


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    requires_tools("nginx")
    generate = FakeGenerate(*answer("a"))
    app = create_app(service(generate), proxies=parse_proxies(["127.0.0.1"]))
    gateway = await serve_http(app, "127.0.0.1", 0)
    with nginx_before(tmp_path, gateway) as running:
        yield Site(running, gateway, generate)
    await gateway.stop(drain_s=0)


@contextmanager
def nginx_before(folder: Path, gateway: HttpServer) -> Iterator[Nginx]:
    with nginx(folder, [f"127.0.0.1:{gateway.port}"]) as running:
        yield running


async def test_a_token_arrives_before_the_answer_is_over(site: Site) -> None:
    gate = asyncio.Event()
    accepted, first, *rest = answer("one", "two")
    site.generate.script = lambda _: (accepted, first, gate, *rest)
    async with site.nginx.client() as http, http.stream("POST", PATH, json=STREAM) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        assert "one" in await anext(lines)
        gate.set()
        later = [line async for line in lines]
    assert any("two" in line for line in later)
    assert later[-2:] == ["data: [DONE]", ""]


async def test_a_client_that_goes_away_ends_its_answer(site: Site) -> None:
    site.generate.script = lambda _: (Accepted(1), TextDelta("one"), asyncio.Event())
    async with site.nginx.client() as http, http.stream("POST", PATH, json=STREAM) as response:
        await anext(response.aiter_lines())
    await asyncio.wait_for(site.generate.has_closed.wait(), 10)


@pytest.mark.parametrize("said", [{}, {"x-forwarded-for": "203.0.113.7"}, {"forwarded": "for=203.0.113.7"}], ids=str)
async def test_the_gateway_sees_who_asks_whatever_they_say(site: Site, said: dict[str, str]) -> None:
    """127.0.0.2 is another address than the proxy's, and this machine's all the same."""
    transport = httpx.AsyncHTTPTransport(verify=site.nginx.tls, local_address="127.0.0.2")
    async with site.nginx.client(transport=transport) as http:
        assert (await http.post(PATH, json=BODY, headers=said)).status_code == 200
    assert [caller.name for caller in site.generate.callers] == ["127.0.0.2"]


async def test_a_body_may_be_as_large_as_at_the_gateway(site: Site) -> None:
    fits = json.dumps({**BODY, "ignored": ""}).encode()
    fits = fits.replace(b'""', b'"' + b"x" * (MAX_BODY_BYTES - len(fits)) + b'"')
    async with site.nginx.client() as http:
        assert len(fits) == MAX_BODY_BYTES
        assert (await http.post(PATH, content=fits)).status_code == 200
        refused = await http.post(PATH, content=fits + b" ")
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "request_too_large"
    assert "buffered to a temporary file" not in site.nginx.error_log, "a prompt was written to the disk"


async def test_one_caller_may_not_flood_and_another_is_served(site: Site) -> None:
    other = httpx.AsyncHTTPTransport(verify=site.nginx.tls, local_address="127.0.0.2")
    async with site.nginx.client() as http, site.nginx.client(transport=other) as elsewhere:
        responses = await asyncio.gather(*(http.post(PATH, json=BODY) for _ in range(2 * BURST)))
        assert (await elsewhere.post(PATH, json=BODY)).status_code == 200
        pages = await asyncio.gather(*(http.get("/livez") for _ in range(BURST)))
    refused = [response for response in responses if response.status_code == 429]
    assert len(responses) - len(refused) >= BURST
    assert len(refused) >= BURST // 2
    assert refused[0].json()["error"]["code"] == "rate_limited"
    assert refused[0].headers["retry-after"] == "5"
    assert {page.status_code for page in pages} == {200}, "the page is not counted"


async def test_one_caller_may_not_hold_all_connections(site: Site) -> None:
    site.generate.script = lambda _: (Accepted(1), asyncio.Event())
    text = CONFIGURATION.read_text(encoding="utf-8")
    (limit,) = re.findall(r"limit_conn p2pnet_connections (\d+);", text)
    async with site.nginx.client(limits=httpx.Limits(max_connections=None)) as http:
        held = [asyncio.create_task(_hold(http)) for _ in range(int(limit) + 8)]
        done, pending = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result() for task in done} == {429}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def test_errors_of_the_gateway_pass_unchanged(site: Site) -> None:
    async with site.nginx.client() as http:
        response = await http.post(PATH, json={"model": "tiny"})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "prompt"
        assert response.headers["x-request-id"] == "0123"
        assert (await http.get("/metrics")).status_code == 404, "not for strangers"


async def test_without_a_gateway_the_error_is_one_that_clients_know(site: Site) -> None:
    await site.gateway.stop(drain_s=0)
    async with site.nginx.client() as http:
        response = await http.post(PATH, json=BODY)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["error"]["code"] == "no_gateway"


async def test_plain_http_leads_to_tls(site: Site) -> None:
    async with httpx.AsyncClient() as http:
        response = await http.get(f"http://127.0.0.1:{site.nginx.plain_port}/v1/models?x=1")
    assert (response.status_code, response.headers["location"]) == (308, "https://127.0.0.1/v1/models?x=1")


async def test_its_log_names_no_address_and_no_query(site: Site) -> None:
    async with site.nginx.client() as http:
        await http.get("/v1/models?secret=1", headers={"x-request-id": "mine"})
    wait_until(lambda: site.nginx.access_log.endswith("\n"), "nginx has written its line: it answers first")
    (line,) = site.nginx.access_log.splitlines()
    assert line.endswith(f"gateway=127.0.0.1:{site.gateway.port} id=mine")
    assert " 200 GET /v1/models " in line
    assert "secret" not in line
    assert line.count("127.0.0.1") == 1, "the gateway's, not the client's"


async def test_http2_is_spoken(site: Site) -> None:
    site.nginx.tls.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", int(site.nginx.url.rsplit(":", 1)[1]))) as plain:
        plain.settimeout(10)
        with site.nginx.tls.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            assert secure.selected_alpn_protocol() == "h2"


def test_times_fit_the_gateways() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    seconds = {name: int(value) for name, value in re.findall(r"^\s+(\w+) (\d+)s;", text, re.MULTILINE)}
    longest_answer_s = GuardConfig().max_request_s
    assert longest_answer_s is not None
    assert seconds["proxy_read_timeout"] > MAX_WAIT_S + longest_answer_s
    (upstream,) = re.findall(r"upstream p2pnet \{.*?keepalive_timeout (\d+)s;.*?\n\}", text, re.DOTALL)
    assert int(upstream) < KEEP_ALIVE_CONNECTION_S, "who closes first loses no request"


async def _hold(http: httpx.AsyncClient) -> int:
    """The status of a request that is not answered."""
    async with http.stream("POST", PATH, json=BODY) as response:
        return response.status_code
