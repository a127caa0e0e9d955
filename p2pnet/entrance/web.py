"""Fetches the document of a web page that says whom to join through: one small GET, bounded in time, size and turns.

Whoever runs the page may be careless or hostile, and so may whoever it points to. So nothing but https is asked, or
http on this machine; and a page elsewhere cannot have this machine asked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from p2pnet.config import AGENT
from p2pnet.entrance.document import WELL_KNOWN_PATH
from p2pnet.errors import UsageError
from p2pnet.loopback import is_loopback

if TYPE_CHECKING:
    import aiohttp

FETCH_S = 10.0
"""For all of it, redirects included. Name, TLS and answer take some round trips: a second around the world."""

MAX_DOCUMENT_BYTES = 16 << 10
"""32 addresses of 256 characters, and as much again for whatever else is in it."""

MAX_REDIRECTS = 3
"""To www, to another path, and one more. Browsers follow twenty; a loop would take all of the time."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def check_url(url: str) -> str:
    """The URL as it is asked: a host alone means its well-known document. Raises UsageError."""
    try:
        parts = urlsplit(url)
        is_fit = bool(parts.hostname) and parts.port != 0 and "," not in url and url.isprintable() and " " not in url
    except ValueError:
        is_fit = False
    if not is_fit:
        raise UsageError(f"{url!r} is no URL.", f"It should look like https://example.org{WELL_KNOWN_PATH}.")
    if parts.username is not None or parts.password is not None:
        raise UsageError("The URL has a user name or password in it.", "Leave them out: invitations and logs name it.")
    if parts.scheme != "https" and not is_loopback(url):
        raise UsageError(
            f"{url} is not encrypted: whoever is on the way could send you elsewhere.",
            "Write it with https://, or name a peer by its address.",
        )
    return url if parts.path not in ("", "/") else urljoin(url, WELL_KNOWN_PATH)


async def fetch(url: str, within_s: float = FETCH_S) -> bytes:
    """The body. Raises UsageError when it does not come whole, in time, and from where it may come."""
    import aiohttp  # not before somebody asks: most never do

    try:
        async with asyncio.timeout(within_s):
            return await _follow(url)
    except TimeoutError as error:
        raise _failed(url, f"nothing came within {within_s:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _failed(url, str(error) or type(error).__name__) from error


async def _follow(url: str) -> bytes:
    import aiohttp

    asked = url
    for _ in range(MAX_REDIRECTS + 1):
        # No proxy reaches this machine; elsewhere one may be the only way. Bodies are not unpacked: small stays small.
        headers = {"User-Agent": AGENT, "Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(headers=headers, trust_env=not is_loopback(asked), auto_decompress=False) as session,
            session.get(asked, allow_redirects=False) as response,
        ):
            if response.status not in _REDIRECTS:
                return await _body(response, url)
            asked = _next(asked, response.headers.get("Location", ""))
    raise _failed(url, f"it leads on more than {MAX_REDIRECTS} times")


def _next(asked: str, location: str) -> str:
    """Where a redirect leads. Raises UsageError when it must not."""
    target = check_url(urljoin(asked, location))
    if is_loopback(target) and not is_loopback(asked):
        raise _failed(asked, "it leads to this machine")
    return target


async def _body(response: aiohttp.ClientResponse, url: str) -> bytes:
    if response.status != 200:
        raise _failed(url, f"the server answered {response.status}")
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise _failed(url, f"it is longer than {MAX_DOCUMENT_BYTES} bytes")
    return body


def _failed(url: str, reason: str) -> UsageError:
    return UsageError(
        f"{url} did not say whom to join through: {reason}.",
        "Look at it in a browser, ask who runs it, or name a peer by its address with --initial-peers.",
    )
