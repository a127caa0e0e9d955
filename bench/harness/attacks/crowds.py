"""Many connections to every peer from one address: of identities that come once, and of one that has a hundred."""

from __future__ import annotations

import asyncio

from bench.harness.stranger.peer import Stranger
from bench.harness.target import Target
from p2pnet.identity import Identity

HOST = "127.0.9.1"
AT_ONCE = 8
PAUSE_S = 1.0
"""Before what was closed comes again."""


async def attack(target: Target, identities: int = 500, of_one: int = 100) -> None:
    """`identities` at the bootstrap, and `of_one` connections of one identity at each worker."""
    room = asyncio.Semaphore(AT_ONCE)
    one = Identity.generate()
    async with asyncio.TaskGroup() as group:
        for _ in range(identities):
            group.create_task(_stay(Identity.generate(), target.bootstrap.tcp_address, room))
        for worker in target.workers:
            for _ in range(of_one):
                group.create_task(_stay(one, worker.tcp_address, room))


async def _stay(identity: Identity, address: str, room: asyncio.Semaphore) -> None:
    while True:
        async with Stranger(identity, HOST) as stranger:
            try:
                async with room:
                    connection = await stranger.dial(address)
                await connection.wait_closed()
            except (OSError, EOFError, TimeoutError):
                pass  # refused: once more
        await asyncio.sleep(PAUSE_S)
