"""The page's files: who gets which at the root, their headers, what they weigh, what is not in them."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.http.access import Access, KeyRing
from gateway.http.keys import ApiKey, hash_key, write_keys
from gateway.http.page import FOLDER, MEDIA_TYPES, SECURITY_HEADERS
from tests.gateway.fake_generate import FakeGenerate, service

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MAX_BYTES = 160_000
"""Of all files together that the page is made of, as they lie there: it is for slow lines too."""

FILES = sorted(FOLDER.iterdir())
BODIES = {path.name: path.read_bytes() for path in FILES}
SHOWN = [path for path in FILES if path.suffix != ".ipynb"]
"""The notebook is there to be downloaded: no browser runs it."""

SCRIPTS = [path for path in FILES if path.suffix == ".js"]

NEVER = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML|srcdoc"
    r"|\beval\b|new Function|setAttribute\(\s*[\"']style|javascript:|https?://(?!www\.w3\.org/|html\.spec|127\.0\.0\.1)"
)
"""What turns text into a document or a program, and what leads to other servers. A name of a namespace is no request,
and the one address of loopback is in a command to copy."""


def client(access: Access | None = None) -> httpx.AsyncClient:
    app = create_app(service(FakeGenerate()), access=access)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_browsers_get_the_page_and_clients_of_ollama_what_they_look_for(method: str) -> None:
    async with client() as http:
        page = await http.request(method, "/", headers=HTML)
        plain = [await http.request(method, "/", headers=given) for given in ({}, {"accept": "*/*"})]
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["vary"] == "accept"
    for answer in plain:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert answer.text == ("Ollama is running" if method == "GET" else "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
async def test_every_file_has_its_type_its_tag_and_the_policy(path: Path) -> None:
    async with client() as http:
        first = await http.get(f"/static/{path.name}")
        again = await http.get(f"/static/{path.name}", headers={"if-none-match": first.headers["etag"]})
        other = await http.get(f"/static/{path.name}", headers={"if-none-match": '"other"'})
    assert (first.status_code, first.content) == (200, BODIES[path.name])
    assert first.headers["content-type"] == MEDIA_TYPES[path.suffix]
    assert first.headers["etag"].startswith('"')
    assert (again.status_code, again.content, other.status_code) == (304, b"", 200)
    for answer in (first, again):
        assert answer.headers["cache-control"] == "no-cache"
        assert SECURITY_HEADERS.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    "name",
    ["", "none.js", "../page.py", "..%2fpage.py", "%2e%2e/page.py", "/etc/passwd", "main.js/", "MAIN.JS", "main.js%00"],
)
async def test_no_other_file_is_served(name: str) -> None:
    async with client() as http:
        assert (await http.get(f"/static/{name}")).status_code == 404


async def test_the_page_needs_no_key_and_what_it_shows_does(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    write_keys(keys, [ApiKey("anna", hash_key("secret"))])
    async with client(Access(KeyRing(keys))) as http:
        answers = {
            path: await http.get(path, headers=HTML) for path in ("/", "/static/main.js", "/v1/models", "/static")
        }
    statuses = {path: answer.status_code for path, answer in answers.items()}
    assert statuses == {"/": 200, "/static/main.js": 200, "/v1/models": 401, "/static": 401}


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in SHOWN) <= MAX_BYTES


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_nothing_in_it_makes_a_document_of_text_or_leads_elsewhere(path: Path) -> None:
    assert NEVER.findall(path.read_text(encoding="utf-8")) == []


def test_what_is_there_is_used_and_what_is_used_is_there() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    named = set(re.findall(r'["(]\.?/?(?:static/)?([a-z_]+\.(?:js|css|svg|ipynb))["\']', text))
    assert named | {"index.html"} == {path.name for path in FILES}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_each_script_says_what_it_is_and_is_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(("/** @file ", "/* "))
    assert text.count("\n") <= 400
