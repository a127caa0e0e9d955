"""`p2pnet health` before programs that do as they like."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from p2pnet.cli.health import GREETING, health
from p2pnet.cli.lifecycle import Ready
from p2pnet.errors import UsageError
from tests.scripted_server import Reply, scripted

GOOD, BAD = Reply((b"{}",)), Reply((b"{}",), 503)


def written(folder: Path, **urls: str) -> Path:
    file = folder / "ready.json"
    file.write_bytes(msgspec.json.encode(Ready("12D3KooW", (), **urls)))
    return file


async def test_a_gateway_and_a_worker_are_asked(tmp_path: Path) -> None:
    async with scripted({"/readyz": [GOOD, BAD], "/metrics": [GOOD, BAD]}) as server:
        file = written(tmp_path, http=server.url, metrics=f"{server.url}/metrics")
        await asyncio.to_thread(health, file)
        with pytest.raises(UsageError, match=r"/readyz answers 503. http://\S+/metrics answers 503."):
            await asyncio.to_thread(health, file)
    with pytest.raises(UsageError, match=r"/readyz does not answer"):
        await asyncio.to_thread(health, file)


@pytest.mark.parametrize(
    ("says", "said"), [(GREETING, None), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no p2pd"), (b"", "is no p2pd")]
)
async def test_p2pd_is_asked_at_the_port_where_it_was_to_listen(says: bytes, said: str | None, tmp_path: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    listen = [f"/ip4/0.0.0.0/tcp/{port}", f"/ip4/0.0.0.0/udp/{port}/quic-v1", "/ip4/0.0.0.0/tcp/0"]
    async with server:
        if said is None:
            await asyncio.to_thread(health, written(tmp_path), listen)
        else:
            with pytest.raises(UsageError, match=said):
                await asyncio.to_thread(health, written(tmp_path), listen)
    with pytest.raises(UsageError, match=f"p2pd does not answer at port {port}"):
        await asyncio.to_thread(health, written(tmp_path), listen)


def test_what_does_not_serve_yet_is_not_well(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="It does not serve yet, or no longer"):
        health(tmp_path / "ready.json")
