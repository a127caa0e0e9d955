"""Finds the servers of models that run on this machine already, where they usually listen. Lends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from p2pnet.errors import WorkerFailed
from p2pnet.worker.backends.upstream.address import parse_address
from p2pnet.worker.backends.upstream.session import UpstreamSession

USUAL = (
    ("Ollama", "http://127.0.0.1:11434"),
    ("LM Studio", "http://127.0.0.1:1234"),
    ("llama.cpp", "http://127.0.0.1:8080"),
    ("vLLM", "http://127.0.0.1:8000"),
)
"""Who listens where if nobody says otherwise."""

LOOK_S = 3.0
"""For one of them. A list of models comes within milliseconds; another program at that port may never answer."""

OWN_PATH = "/p2pnet/v1/join"
"""A gateway of ours answers OpenAI's paths too. Lent to the network, it would ask itself."""


class _Model(msgspec.Struct):
    id: str


class _Listing(msgspec.Struct):
    data: list[_Model]


class _Own(msgspec.Struct):
    initial_peers: list[str]


_decode_listing = msgspec.json.Decoder(_Listing).decode
_decode_own = msgspec.json.Decoder(_Own).decode


@dataclass(frozen=True)
class FoundServer:
    """One that could be lent, under the name of what usually listens there."""

    name: str
    url: str
    models: tuple[str, ...] = ()
    needs_key: bool = False
    """It says nothing without one, so which models it has is not known."""


async def find_servers(candidates: Sequence[tuple[str, str]] = USUAL, look_s: float = LOOK_S) -> list[FoundServer]:
    """Those of the candidates, names and URLs, that answer as OpenAI's API does, and are no gateway of ours."""
    found = await asyncio.gather(*(_look(name, url, look_s) for name, url in candidates))
    return [server for server in found if server is not None]


async def _look(name: str, url: str, look_s: float) -> FoundServer | None:
    session = UpstreamSession(parse_address(url))
    try:
        async with asyncio.timeout(look_s):
            status, body = await session.fetch("/v1/models")
            if status not in (200, 401, 403) or await _is_ours(session):
                return None
    except (WorkerFailed, TimeoutError):
        return None
    finally:
        await session.close()
    if status != 200:
        return FoundServer(name, url, needs_key=True)
    try:
        return FoundServer(name, url, tuple(model.id for model in _decode_listing(body).data))
    except msgspec.MsgspecError:
        return None


async def _is_ours(session: UpstreamSession) -> bool:
    """With keys it refuses this path too, where others do not know it."""
    status, body = await session.fetch(OWN_PATH)
    if status in (401, 403):
        return b"invalid_api_key" in body
    try:
        _decode_own(body)
    except msgspec.MsgspecError:
        return False
    return status == 200
