"""Pages of other sites, in the browser of somebody who has a gateway without keys: none uses it, and none reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from bench.harness.attacks import web_pages
from bench.harness.attacks.web_pages import EVIL, ask, forged
from bench.harness.siege import MODEL, TOKENS, Besieged, assert_held, siege
from tests.attacks.evil_page import evil_html, serving
from tests.depth import scaled
from tests.page.browser import chromium, tab

SECONDS = scaled(ci=2.0, deep=20.0)
UNGUARDED = ("--disable-features=LocalNetworkAccessChecks",)
"""Chromium has begun to refuse some of this by itself; other browsers have not."""

KINDS = forged("http://127.0.0.1:8000", MODEL)


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=1) as made:
        yield made


async def test_pages_that_ask_all_the_time_disturb_nobody(besieged: Besieged) -> None:
    """Given honest requests, when pages of other sites ask for long answers, then no answer is theirs."""
    assert_held(await besieged.withstand(web_pages.attack, SECONDS))
    assert {request["completion_tokens"] for request in history(besieged)} == {TOKENS}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_page_of_another_site_asks_is_refused(besieged: Besieged, kind: str) -> None:
    before = total(besieged)
    url = besieged.target.url
    head, _, body = (await ask(url, forged(url, MODEL)[kind])).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"access-control-allow-origin" not in head.lower()
    assert b"--allowed-" in body
    json.loads(body)
    assert total(besieged) == before


HONEST: dict[str, tuple[str, dict[str, str]]] = {
    "curl -d": ("127.0.0.1", {"content-type": "application/x-www-form-urlencoded"}),
    "a script in node": ("localhost", {"content-type": "text/plain;charset=UTF-8", "sec-fetch-mode": "cors"}),
    "another machine's name in a container": ("host.docker.internal", {"content-type": "application/json"}),
    "no type at all": ("127.0.0.1", {"content-type": ""}),
}


@pytest.mark.parametrize("kind", HONEST)
async def test_clients_that_are_no_browsers_are_served_as_ever(besieged: Besieged, kind: str) -> None:
    name, headers = HONEST[kind]
    port = urlsplit(besieged.target.url).port
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 2,
            "options": {"num_predict": 2},
        }
    )
    async with httpx.AsyncClient(base_url=besieged.target.url) as http:
        for path in ("/v1/chat/completions", "/api/chat", "/v1/messages"):
            response = await http.post(path, content=body, headers={"host": f"{name}:{port}", **headers})
            assert response.status_code == 200, response.text


async def test_clients_as_old_as_http_1_0_need_no_host(besieged: Besieged) -> None:
    assert (await ask(besieged.target.url, b"GET /v1/models HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


def test_a_real_browser_on_a_page_of_another_site_gets_nothing(besieged: Besieged) -> None:
    """Given somebody who visits evil pages: on another port of this machine, of another name, and under a name that led
    to their server and now leads to the gateway (DNS rebinding). When they ask in every way that a browser lets them,
    then nothing is asked of any worker, and they have read nothing. The gateway's own page is shown all the same."""
    before = total(besieged)
    url = besieged.target.url
    rebound = url.replace("127.0.0.1", EVIL)
    with (
        serving(evil_html(url, MODEL)) as port,
        chromium(*UNGUARDED, f"--host-resolver-rules=MAP {EVIL} 127.0.0.1") as browser,
    ):
        page = browser.new_page()
        page.route(
            f"{rebound}/cats", lambda route: route.fulfill(body=evil_html(rebound, MODEL), content_type="text/html")
        )
        for visited in (f"http://127.0.0.1:{port}/", f"http://{EVIL}:{port}/", f"{rebound}/cats"):
            page.goto(visited)
            page.wait_for_function("window.done")
            assert page.evaluate("window.read") == []
        for own in (url, url.replace("127.0.0.1", "localhost")):
            with tab(browser, own) as shown:
                shown.get_by_text(MODEL).first.wait_for()
    assert total(besieged) == before


def total(besieged: Besieged) -> int:
    """How many requests the gateway has served, or tried to."""
    return len(history(besieged))


def history(besieged: Besieged) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = httpx.get(besieged.target.url + "/p2pnet/v1/requests?limit=1000").json()[
        "requests"
    ]
    return requests
