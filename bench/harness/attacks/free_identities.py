"""Records of workers that nobody is: they lead to a socket that says nothing, to none, or to one that answers probes.

Identities cost nothing, so there are as many as one likes; all are stored at the bootstrap like any others.
"""

from __future__ import annotations

import asyncio
import random

import msgspec

from bench.harness.chain_model import chain_card
from bench.harness.stranger import dht
from bench.harness.stranger.connection import Stage
from bench.harness.stranger.peer import Stranger
from bench.harness.target import Target
from p2pnet.errors import P2PNetError
from p2pnet.identity import Identity
from p2pnet.network.interface import Stream
from p2pnet.status_messages import Status
from p2pnet.wire.codec import MAX_STATUS_FRAME_BYTES, encode_frame
from p2pnet.wire.exchange import GENERATE_PROTOCOL, STATUS_PROTOCOL

WAYS = ("silent", "refusing", "stalling")
CLOSED_PORT = 9
ANNOUNCED_AT_ONCE = 8
AGAIN_S = 0.5
"""Often, since a worker that announces itself anew may be there again."""


async def attack(target: Target, identities: int = 20, way: str = "silent", seed: int = 1) -> None:
    """A `way` is one of WAYS: a socket that accepts and says nothing, a port that is closed, or workers that answer
    every probe and no request."""
    rng = random.Random(seed)
    workers = [Stranger(Identity.from_seed(rng.randbytes(32))) for _ in range(identities)]
    async with Stranger() as door:
        address = await door.listen(until=Stage.TCP) if way == "silent" else f"/ip4/127.0.0.1/tcp/{CLOSED_PORT}"
        address = address.split("/p2p/")[0]
        try:
            if way == "stalling":
                await asyncio.gather(*map(_serve, workers))
            await _announce_all(target, workers, address)
        finally:
            await asyncio.gather(*(worker.close() for worker in workers))


async def _announce_all(target: Target, workers: list[Stranger], address: str) -> None:
    """And again and again, each time with other records."""
    turns = asyncio.Semaphore(ANNOUNCED_AT_ONCE)

    async def announce(worker: Stranger) -> None:
        addresses = worker.addresses or (f"{address}/p2p/{worker.peer_id}",)
        record = dht.capability(worker.identity, addresses)
        record = msgspec.structs.replace(record, models=(chain_card(target.model),), slots=64)
        async with turns:
            try:
                connection = await worker.dial(target.bootstrap.tcp_address)
                await dht.announce(connection, worker.identity, record)
                await connection.close()
            except (OSError, EOFError, TimeoutError, dht.CallFailed, P2PNetError):
                pass  # it has enough of them: the next time

    while True:
        await asyncio.gather(*map(announce, workers))
        await asyncio.sleep(AGAIN_S)


async def _serve(worker: Stranger) -> None:
    async def answer(stream: Stream) -> None:
        await stream.read()
        await stream.write(encode_frame(Status(True), MAX_STATUS_FRAME_BYTES))

    async def stall(stream: Stream) -> None:
        while await stream.read():
            pass

    worker.serve_chunked(STATUS_PROTOCOL, answer)
    worker.serve_chunked(GENERATE_PROTOCOL, stall)
    await worker.listen()
