"""Which requests a gateway without keys takes for a page's of another site: one table, then over the application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.http.access import Access, KeyRing
from gateway.http.keys import ApiKey, add_key, hash_key, new_key
from gateway.http.web_pages import ForeignHost, ForeignPage, NotJson, WebPages, parse_web_pages
from p2pnet.errors import P2PNetError, UsageError
from tests.gateway.fake_generate import FakeGenerate, answer, service

PAGES = parse_web_pages(["box.example"], ["https://chat.example", "chrome-extension://abc", "http://localhost:3000"])
HERE = "127.0.0.1:8000"

HOSTS: list[tuple[str, bool]] = [
    ("127.0.0.1:8000", True),
    ("127.0.0.1", True),
    ("127.8.8.8:1", True),
    ("localhost:8000", True),
    ("LOCALHOST", True),
    ("localhost.:8000", True),
    ("me.localhost:8000", True),
    ("[::1]:8000", True),
    ("[::ffff:127.0.0.1]", True),
    ("[fe80::1%eth0]:8000", True),
    ("0.0.0.0:8000", True),
    ("192.168.1.5:8000", True),
    ("host.docker.internal:8000", True),
    ("box.example", True),
    ("BOX.example:443", True),
    ("", True),
    ("evil.example", False),
    ("evil.example:8000", False),
    ("evil.box.example", False),
    ("localhost.evil.example:8000", False),
    ("127.0.0.1.evil.example:8000", False),
    ("127.1:8000", False),
    ("evillocalhost", False),
    ("localhost:8000.evil.example", False),
    ("me@localhost", False),
    ("localhost, evil.example", False),
    ("localhost/evil.example", False),
    ("[::1]evil.example", False),
    ("[evil.example]", False),
    ("xn--d1acufc.example", False),
    ("lоcalhost", False),  # its second letter is Cyrillic
]


@pytest.mark.parametrize(("host", "is_own"), HOSTS)
def test_hosts(host: str, is_own: bool) -> None:
    assert said({"host": host}, "GET") is (None if is_own else ForeignHost)


ASKED: list[tuple[str, dict[str, str], type[P2PNetError] | None]] = [
    ("a client that is no browser", {}, None),
    ("curl -d", {"content-type": "application/x-www-form-urlencoded"}, None),
    ("a script in node", {"content-type": "text/plain;charset=UTF-8", "sec-fetch-mode": "cors"}, None),
    ("its own page", {"origin": f"http://{HERE}", "sec-fetch-site": "same-origin"}, None),
    ("behind a proxy that keeps the host", {"host": "box.example", "origin": "https://box.example"}, None),
    ("behind one that does not", {"origin": "https://box.example", "sec-fetch-site": "same-origin"}, None),
    ("with a port that need not be said", {"host": "localhost", "origin": "http://localhost:80"}, None),
    ("an allowed page", {"origin": "https://chat.example", "sec-fetch-site": "cross-site"}, None),
    ("one on another port", {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"}, None),
    ("an extension", {"origin": "chrome-extension://abc", "sec-fetch-site": "cross-site"}, None),
    ("a program with a window", {"origin": "vscode-webview://1a2b", "sec-fetch-site": "cross-site"}, None),
    ("another site", {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, ForeignPage),
    ("in an old browser", {"origin": "https://evil.example"}, ForeignPage),
    ("without an origin", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, ForeignPage),
    ("an allowed site's subdomain", {"origin": "https://evil.chat.example"}, ForeignPage),
    ("an allowed site without TLS", {"origin": "http://chat.example"}, ForeignPage),
    ("another extension", {"origin": "chrome-extension://evil"}, ForeignPage),
    ("another port of this machine", {"origin": "http://127.0.0.1:9", "sec-fetch-site": "same-site"}, ForeignPage),
    ("another name of this machine", {"origin": "http://localhost:8000"}, ForeignPage),
    ("another port of an allowed host", {"origin": "http://box.example:9"}, ForeignPage),
    ("a sandboxed frame", {"origin": "null", "sec-fetch-site": "cross-site"}, ForeignPage),
    ("sent on from elsewhere", {"origin": f"http://{HERE}", "sec-fetch-site": "cross-site"}, ForeignPage),
    ("an origin that is none", {"origin": "http://127.0.0.1:8000, http://evil.example"}, ForeignPage),
    ("a link that is a POST", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, ForeignPage),
    ("its own page, as text", {"origin": f"http://{HERE}", "content-type": "text/plain"}, NotJson),
    ("its own page, as a form", {"sec-fetch-site": "same-origin", "content-type": "multipart/form-data"}, NotJson),
    ("an extension, as text", {"sec-fetch-site": "none", "content-type": "text/plain"}, NotJson),
    ("JSON in UTF-8", {"origin": f"http://{HERE}", "content-type": "application/json; charset=utf-8"}, None),
    ("some other JSON", {"origin": f"http://{HERE}", "content-type": "application/vnd.api+json"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "kind"), [case[1:] for case in ASKED], ids=[case[0] for case in ASKED])
def test_a_post(headers: dict[str, str], kind: type[P2PNetError] | None) -> None:
    assert said(headers, "POST") is kind


VISIT = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def test_a_link_from_another_site_may_be_followed_and_nothing_framed() -> None:
    assert said(VISIT, "GET") is None
    assert said(VISIT, "POST") is ForeignPage
    assert said(VISIT | {"sec-fetch-dest": "iframe"}, "GET") is ForeignPage
    assert said(VISIT | {"sec-fetch-mode": "cors"}, "GET") is ForeignPage


def test_a_get_of_a_page_needs_no_content_type() -> None:
    assert said({"sec-fetch-site": "same-origin", "content-type": "text/plain"}, "GET") is None


def test_of_several_hosts_none_may_be_foreign() -> None:
    with pytest.raises(ForeignHost):
        PAGES.check("GET", [(b"host", b"localhost"), (b"host", b"evil.example")])


@pytest.mark.parametrize(
    ("hosts", "origins"),
    [(["box.example:80"], []), (["http://box.example"], []), ([""], []), ([], ["null"]), ([], ["*"]), ([], ["a.b"])],
)
def test_what_cannot_be_allowed(hosts: list[str], origins: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        parse_web_pages(hosts, origins)
    assert "--allowed-" in refused.value.fix


def said(headers: dict[str, str], method: str) -> type[P2PNetError] | None:
    """How the request is refused. What no case says is as with a client on this machine that sends JSON."""
    given = {"host": HERE, "content-type": "application/json", **headers}
    raw = [(name.encode(), value.encode("latin-1", errors="replace")) for name, value in given.items()]
    try:
        PAGES.check(method, raw)
    except P2PNetError as error:
        return type(error)
    return None


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(service(FakeGenerate(*answer("Hi"))), pages=PAGES)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{HERE}") as client:
        yield client


EVIL = {"origin": "https://evil.example"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/messages"])
async def test_a_refusal_says_what_to_do_in_the_dialect_of_the_path(http: httpx.AsyncClient, path: str) -> None:
    for headers, fix in ((EVIL, "--allowed-origin"), ({"host": "evil.example"}, "--allowed-host")):
        response = await http.post(path, json=CHAT, headers=headers)
        error: Any = response.json()["error"]
        assert response.status_code == 403
        assert fix in (error if path == "/api/chat" else error["message"])


async def test_only_health_is_told_under_any_name(http: httpx.AsyncClient) -> None:
    statuses = {
        path: (await http.get(path, headers={"host": "evil.example"})).status_code
        for path in (
            "/",
            "/static/main.js",
            "/v1/models",
            "/p2pnet/v1/overview",
            "/metrics",
            "/health",
            "/livez",
            "/readyz",
        )
    }
    assert {path for path, status in statuses.items() if status == 200} == {"/health", "/livez", "/readyz"}


async def test_an_allowed_page_may_ask_and_read_and_no_other(http: httpx.AsyncClient) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    for origin, may in (("https://chat.example", True), ("https://evil.example", False)):
        preflight = await http.options("/v1/chat/completions", headers={"origin": origin, **asks})
        assert (preflight.headers.get("access-control-allow-origin") == origin) is may
        response = await http.post("/v1/chat/completions", json=CHAT, headers={"origin": origin})
        assert (response.status_code == 200) is may
        assert (response.headers.get("access-control-allow-origin") == origin) is may


async def test_without_allowed_pages_a_preflight_is_answered_by_nothing() -> None:
    app = create_app(service(FakeGenerate(*answer("Hi"))), pages=WebPages())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{HERE}") as client:
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        preflight = await client.options("/v1/chat/completions", headers={**EVIL, **asks})
    assert preflight.status_code == 403
    assert not any(name.startswith("access-control-") for name in preflight.headers)


async def test_with_keys_a_key_is_all_that_counts(tmp_path: Path) -> None:
    file, key = tmp_path / "keys.txt", new_key()
    add_key(file, ApiKey("anna", hash_key(key)))
    app = create_app(service(FakeGenerate(*answer("Hi"))), access=Access(KeyRing(file)), pages=PAGES)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ai.example") as client:
        assert (await client.post("/v1/chat/completions", json=CHAT, headers=EVIL)).status_code == 401
        headers = {**EVIL, "authorization": f"Bearer {key}"}
        assert (await client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
async def test_no_page_of_documentation_that_loads_programs_from_elsewhere(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404
