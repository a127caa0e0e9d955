"""Streams of libp2p's ping to every worker, which p2pd answers by itself, and keeps for a minute when nothing comes."""

from __future__ import annotations

import asyncio

from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import PING, Stranger
from bench.harness.target import Target

PAUSE_S = 0.5
"""Before a connection that was closed is made again."""


async def attack(target: Target, strangers: int = 2, streams: int = 20_000) -> None:
    """So many over each connection, from so many strangers to each worker."""
    async with asyncio.TaskGroup() as group:
        for number in range(strangers):
            for worker in target.workers:
                group.create_task(_stay(f"127.0.9.{number + 1}", worker.tcp_address, streams))


async def _stay(host: str, address: str, streams: int) -> None:
    while True:
        async with Stranger(host=host) as stranger:
            try:
                connection = await stranger.dial(address)
                for _ in range(streams):
                    await connection.open(PING)
                await connection.wait_closed()
            except (OSError, EOFError, TimeoutError, NotAgreed):
                pass  # closed or refused: once more
        await asyncio.sleep(PAUSE_S)
