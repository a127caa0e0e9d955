"""Prompts of the largest size for a model that nobody has, which their clients are ready to wait for."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

from bench.harness.target import Target

BODY_BYTES = 3_900_000
AT_ONCE = 4
"""Bodies on their way at the same time: what arrives has a bound of its own."""

TAKEN_IN_S = 0.05
PAUSE_S = 5.0
"""Before one that was refused comes again."""


async def attack(target: Target, bodies: int = 250) -> None:
    sending = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for _ in range(bodies):
            group.create_task(_wait(target.url, sending))


async def _wait(url: str, sending: asyncio.Semaphore) -> None:
    """Comes again when it is refused."""
    prompt = json.dumps({"model": "nobody-has-it", "prompt": "x" * BODY_BYTES}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx-p2pnet-wait-s: 300\r\ncontent-length: {len(prompt)}\r\n"
    )
    while True:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        try:
            async with sending:
                writer.write(f"{head}\r\n".encode())
                writer.write(prompt)
                await writer.drain()
                await asyncio.sleep(TAKEN_IN_S)
            await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            pass  # refused, and hung up
        finally:
            writer.transport.abort()
        await asyncio.sleep(PAUSE_S)
