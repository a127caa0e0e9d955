"""Identities of one address that take reservations at the bootstrap: some stay, and others come and go."""

from __future__ import annotations

import asyncio

from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.relay import reserve
from bench.harness.target import Target

HOST = "127.0.9.1"
AT_ONCE = 8


async def attack(target: Target, staying: int = 1200, passing: int = 1200) -> None:
    room = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for _ in range(passing):
            group.create_task(_reserve(target.bootstrap.tcp_address, room, stays=False))
        for _ in range(staying):
            group.create_task(_reserve(target.bootstrap.tcp_address, room, stays=True))


async def _reserve(address: str, room: asyncio.Semaphore, stays: bool) -> None:
    async with Stranger(host=HOST) as stranger:
        try:
            async with room:
                connection = await stranger.dial(address)
                await reserve(connection)
            if stays:
                await connection.wait_closed()
        except (OSError, EOFError, TimeoutError, NotAgreed):
            pass  # closed or refused
