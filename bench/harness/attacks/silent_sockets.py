"""Many TCP connections to the bootstrap that say nothing, opened again when they are closed."""

from __future__ import annotations

import asyncio

from bench.harness.target import Target

PAUSE_S = 0.05
"""Between two tries of one that is refused."""


async def attack(target: Target, connections: int = 500) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_stay(*target.bootstrap.tcp))


async def _stay(host: str, port: int) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(PAUSE_S)
            continue
        try:
            while await reader.read(1 << 12):
                pass  # its protocols, which we leave unanswered
        except OSError:
            pass  # reset: once more
        finally:
            writer.transport.abort()
        await asyncio.sleep(PAUSE_S)
