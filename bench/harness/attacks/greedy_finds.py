"""Questions to the DHT that are cheap to ask and dear to answer: one key named thousands of times, keys by the hundred
thousand, and the fullest key as often as can be.
"""

from __future__ import annotations

import asyncio
import contextlib

from bench.harness.stranger import dht
from bench.harness.stranger.connection import Connection
from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import Stranger
from bench.harness.target import Target, TargetPeer
from p2pnet.directory import model_key
from p2pnet.identity import Identity
from p2pnet.network.interface import key_id
from p2pnet.network.libp2p.protobuf import field

CROWDED = "crowded"
FULL_KEY = "p2pnet/1/model/crowded"
RECORDS = 100
AT_ONCE = 10
REPEATS = 10_000
EMPTY_KEYS = 500_000
CALL_S = 20.0
FAILURES = (OSError, EOFError, TimeoutError, NotAgreed, dht.CallFailed)

QUESTIONS = {
    "one key ten thousand times": field(2, key_id(FULL_KEY)) * REPEATS,
    "half a million empty keys": field(2, b"") * EMPTY_KEYS,
    "a full key": field(2, key_id(FULL_KEY)),
}


async def attack(target: Target, connections: int = 16, question: str = "a full key", hosts: int = 4) -> None:
    """`question` is one of QUESTIONS, for what `crowd` has stored before. The strangers come from as many loopback
    addresses as there are `hosts`."""
    peers = (target.bootstrap, *target.workers)
    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            stranger = Stranger(host=f"127.0.1.{1 + number % hosts}")
            for peer in peers:
                group.create_task(_ask_for_ever(stranger, peer, QUESTIONS[question]))


async def crowd(target: Target) -> None:
    """Put RECORDS records under FULL_KEY, each by a stranger of its own, at the bootstrap and all workers."""
    assert model_key(CROWDED) == FULL_KEY
    for peer in (target.bootstrap, *target.workers):
        for first in range(0, RECORDS, AT_ONCE):
            await asyncio.gather(*(_announce(peer, number) for number in range(first, first + AT_ONCE)))


async def _announce(peer: TargetPeer, number: int) -> None:
    identity = Identity.from_seed(number.to_bytes(32, "big"))
    async with Stranger(identity, host=f"127.0.2.{1 + number % 50}") as stranger:
        connection = await stranger.dial(peer.tcp_address)
        address = f"/ip4/127.0.0.1/tcp/9/p2p/{identity.peer_id}"
        assert await dht.announce(connection, identity, dht.capability(identity, (address,), model=CROWDED))


async def _ask_for_ever(stranger: Stranger, peer: TargetPeer, question: bytes) -> None:
    while True:
        with contextlib.suppress(*FAILURES):
            connection = await stranger.dial(peer.tcp_address)
            try:
                while True:
                    await _ask(connection, question)
            finally:
                await connection.close()
        await asyncio.sleep(0.01)


async def _ask(connection: Connection, question: bytes) -> None:
    with contextlib.suppress(dht.CallFailed):  # refused, as it should be
        async with asyncio.timeout(CALL_S):
            await dht.call(connection, dht.FIND, question)
