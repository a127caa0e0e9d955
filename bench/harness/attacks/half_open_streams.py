"""Streams to every worker on which a protocol is agreed on and then nothing is said, opened again when they are closed.

A few identities, each from an address of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.harness.stranger.connection import Connection
from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.yamux import MuxedStream
from bench.harness.target import Target
from p2pnet.wire.protocols import GENERATE

PAUSE_S = 0.5
"""Before what was closed is opened again."""
OPENING_AT_ONCE = 32


async def attack(
    target: Target, streams: int = 3000, strangers: int = 3, protocols: Sequence[str] = (GENERATE.name,)
) -> None:
    """`streams` to each worker, from all strangers together."""
    async with asyncio.TaskGroup() as group:
        for number in range(strangers):
            for worker in target.workers:
                group.create_task(_hold(f"127.0.9.{number + 1}", worker.tcp_address, streams // strangers, protocols))


async def _hold(host: str, address: str, streams: int, protocols: Sequence[str]) -> None:
    while True:
        async with Stranger(host=host) as stranger:
            try:
                connection = await stranger.dial(address)
                await _open_all(connection, streams, protocols)
            except (OSError, EOFError, TimeoutError):
                pass  # closed or refused: once more
        await asyncio.sleep(PAUSE_S)


async def _open_all(connection: Connection, streams: int, protocols: Sequence[str]) -> None:
    room = asyncio.Semaphore(OPENING_AT_ONCE)
    staying = [
        asyncio.create_task(_stay(connection, protocols[each % len(protocols)], room)) for each in range(streams)
    ]
    try:
        await connection.wait_closed()
    finally:
        for task in staying:
            task.cancel()
        await asyncio.gather(*staying, return_exceptions=True)


async def _stay(connection: Connection, protocol: str, room: asyncio.Semaphore) -> None:
    while True:
        try:
            async with room:
                stream = await connection.open(protocol)
            await _wait_closed(stream)
        except (OSError, EOFError, NotAgreed):
            pass  # once more
        await asyncio.sleep(PAUSE_S)


async def _wait_closed(stream: MuxedStream) -> None:
    while await stream.read():
        pass
