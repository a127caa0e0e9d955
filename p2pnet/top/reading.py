"""Asks a gateway for its overview. Knows nothing of how it is shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from p2pnet.errors import P2PNetError, UsageError
from p2pnet.loopback import is_loopback
from p2pnet.top.overview import NotAnOverview, Overview, read_overview

TIMEOUT_S = 5.0
"""A gateway answers in milliseconds; one that does not is as good as away, and is asked again."""
PATH = "/p2pnet/v1/overview"
MAX_BODY_BYTES = 16 << 20
"""Two hundred workers with 32 models each are under 2 MiB."""


class GatewayAway(P2PNetError):
    """It does not answer, or not as it should, at the moment: asking again may help."""


class Source:
    """One gateway. Make one with `opened`."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self.url = url

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str, key: str | None) -> AsyncIterator[Source]:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            client = httpx.AsyncClient(
                base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_S, trust_env=not is_loopback(url)
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise UsageError(f"{url!r} is no gateway's address.", "Write it as http://127.0.0.1:8000.") from error
        async with client:
            yield cls(client, url)

    async def read(self) -> Overview:
        """Raises UsageError for what asking again does not help, GatewayAway otherwise."""
        try:
            response = await self._client.get(PATH)
        except httpx.UnsupportedProtocol as error:
            raise UsageError(f"{self.url!r} is no gateway's address.", "Write it as http://127.0.0.1:8000.") from error
        except httpx.HTTPError as error:
            raise GatewayAway(f"There is no gateway at {self.url} ({_reason(error)}).") from error
        if response.status_code in (401, 403):
            raise UsageError(
                f"The gateway at {self.url} asks for a key, and this one will not do."
                if "authorization" in self._client.headers
                else f"The gateway at {self.url} asks for a key.",
                "Put your key into an environment variable, and name that: P2PNET_KEY=... --api-key-env P2PNET_KEY.",
            )
        if response.status_code == 404:
            raise UsageError(
                f"What answers at {self.url} has no overview.",
                "Name a gateway of p2pnet with --gateway; one of an older version must be updated.",
            )
        if response.status_code != 200:
            raise GatewayAway(f"The gateway at {self.url} answered with status {response.status_code}.")
        return self._overview_in(response.content)

    def _overview_in(self, body: bytes) -> Overview:
        try:
            return read_overview(body[:MAX_BODY_BYTES])
        except NotAnOverview as error:
            raise UsageError(
                f"What answers at {self.url} sends no overview that this version understands.",
                "Name a gateway of p2pnet with --gateway, or bring both to the same version.",
            ) from error


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__
