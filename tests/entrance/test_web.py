"""The page that says whom to join through, fetched from servers on loopback that do as they like."""

from __future__ import annotations

import pytest

from p2pnet.entrance.web import MAX_DOCUMENT_BYTES, MAX_REDIRECTS, fetch
from p2pnet.errors import UsageError
from tests.scripted_server import Reply, scripted

BODY = b'{"initial_peers": []}'


def redirect(location: str, status: int = 302) -> Reply:
    return Reply(status=status, headers={"Location": location})


async def test_the_body_is_fetched_without_being_unpacked() -> None:
    async with scripted({"/page": [Reply((BODY,))]}) as server:
        assert await fetch(f"{server.url}/page") == BODY
        (asked,) = server.received
        assert asked.headers["Accept-Encoding"] == "identity"
        assert asked.headers["User-Agent"].startswith("p2pnet/")


async def test_redirects_are_followed_a_few_times() -> None:
    steps = {f"/{number}": [redirect(f"/{number + 1}", 301 + number % 2)] for number in range(MAX_REDIRECTS + 1)}
    async with scripted(steps | {f"/{MAX_REDIRECTS}": [Reply((BODY,))]}) as server:
        assert await fetch(f"{server.url}/0") == BODY
    async with scripted(steps) as server:
        with pytest.raises(UsageError, match="leads on more than 3 times"):
            await fetch(f"{server.url}/0")
        assert len(server.received) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("location", ["http://example.org/", "ftp://example.org/", "file:///etc/passwd", "https://"])
async def test_no_redirect_leads_where_nobody_may_be_asked(location: str) -> None:
    async with scripted({"/page": [redirect(location)]}) as server:
        with pytest.raises(UsageError):
            await fetch(f"{server.url}/page")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(status=404), "the server answered 404"),
        (Reply(status=500), "the server answered 500"),
        (Reply((b"x" * 4096,) * 5), f"longer than {MAX_DOCUMENT_BYTES} bytes"),
        (Reply((BODY,), headers={"Content-Length": "100"}, then="cut"), "did not say whom to join through"),
    ],
)
async def test_what_does_not_come_whole_is_refused(reply: Reply, said: str) -> None:
    async with scripted({"/page": [reply]}) as server:
        with pytest.raises(UsageError, match=said) as refused:
            await fetch(f"{server.url}/page")
        assert "--initial-peers" in refused.value.fix


async def test_a_server_that_never_ends_is_left_in_time() -> None:
    async with scripted({"/page": [Reply((b"{",), then="wait")]}) as server:
        with pytest.raises(UsageError, match=r"nothing came within 0.2 s"):
            await fetch(f"{server.url}/page", within_s=0.2)


async def test_a_server_that_is_not_there_is_said() -> None:
    async with scripted({}) as server:
        url = server.url
    with pytest.raises(UsageError, match=r"http://127\.0\.0\.1:\d+/ did not say whom to join through"):
        await fetch(f"{url}/")
