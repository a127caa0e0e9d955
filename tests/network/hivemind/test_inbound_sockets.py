"""A socket on which p2pd passes a stream is closed, however its serving ends."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from p2pnet.network.hivemind.inbound_sockets import InboundSockets, Serve


async def reads_more_than_comes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(8)


async def serves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)


@pytest.mark.parametrize("handle", [reads_more_than_comes, serves])
async def test_it_is_closed_at_the_end(tmp_path: Path, handle: Serve) -> None:
    """Also where p2pd has died before it said whose stream it is."""
    served: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def noted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.put_nowait(writer)
        await handle(reader, writer)

    async with await asyncio.start_unix_server(InboundSockets().closing(noted), path=tmp_path / "s"):
        _, client = await asyncio.open_unix_connection(tmp_path / "s")
        client.write(b"x")
        client.close()
        await (await served.get()).wait_closed()


async def test_it_is_closed_when_nobody_serves_it_any_more(tmp_path: Path) -> None:
    served: asyncio.Queue[tuple[asyncio.Task[None], asyncio.StreamWriter]] = asyncio.Queue()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.put_nowait((task, writer))
        await asyncio.Event().wait()

    async with await asyncio.start_unix_server(InboundSockets().closing(waits), path=tmp_path / "s"):
        _, client = await asyncio.open_unix_connection(tmp_path / "s")
        task, writer = await served.get()
        task.cancel()
        await writer.wait_closed()
        client.close()


async def test_it_is_closed_when_its_serving_has_not_begun(tmp_path: Path) -> None:
    """Given a stream that is accepted in the moment in which p2pd ends, when this peer ends too, then nothing of it is
    left."""
    sockets = InboundSockets()
    begun: list[asyncio.StreamWriter] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.append(writer)
        await asyncio.Event().wait()

    server = await asyncio.start_unix_server(sockets.closing(note), path=tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        client.setblocking(False)
        await sockets.accepted()
        server.close()
        await sockets.close()
        assert client.recv(1) == b""
    assert all(writer.transport.is_closing() for writer in begun)
