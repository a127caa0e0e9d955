"""A peer that stores under keys by the thousand, and others that ping under node ids of their own invention."""

from __future__ import annotations

import asyncio
import contextlib
import random

import msgspec
from hivemind.proto import dht_pb2

from bench.harness.stranger import dht
from bench.harness.stranger.connection import Connection
from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import Stranger
from bench.harness.target import Target, TargetPeer
from p2pnet.network.interface import key_id
from p2pnet.records import seal

KEYS_A_CALL = 32
PINGS_A_ROUND = 28
FAILURES = (OSError, EOFError, TimeoutError, NotAgreed, dht.CallFailed)


async def attack(target: Target, seed: int = 1) -> None:
    rng = random.Random(seed)
    async with asyncio.TaskGroup() as group:
        for number, peer in enumerate((target.bootstrap, *target.workers)):
            group.create_task(_store_for_ever(peer, f"127.0.3.{number + 1}"))
            group.create_task(_ping_for_ever(peer, f"127.0.4.{number + 1}", random.Random(rng.random())))


async def _store_for_ever(peer: TargetPeer, host: str) -> None:
    """A record of its own names 32 models at a time, which are other ones each time: each is a key more."""
    number = 0
    async with Stranger(host=host) as stranger:
        while True:
            with contextlib.suppress(*FAILURES):
                connection = await stranger.dial(peer.tcp_address)
                while True:
                    await dht.store(connection, _many_keys(stranger, number))
                    number += KEYS_A_CALL
            await asyncio.sleep(0.05)


def _many_keys(stranger: Stranger, first: int) -> dht_pb2.StoreRequest:
    record = dht.capability(stranger.identity, (f"/ip4/127.0.0.1/tcp/9/p2p/{stranger.peer_id}",))
    cards = tuple(msgspec.structs.replace(record.models[0], id=f"m{first + n}") for n in range(KEYS_A_CALL))
    sealed = seal(msgspec.structs.replace(record, models=cards), stranger.identity)
    return dht_pb2.StoreRequest(
        keys=[key_id(f"p2pnet/1/model/{card.id}") for card in cards],
        subkeys=[msgspec.msgpack.encode(stranger.peer_id)] * KEYS_A_CALL,
        values=[msgspec.msgpack.encode(sealed)] * KEYS_A_CALL,
        expiration_time=[record.expires_ms / 1000] * KEYS_A_CALL,
        in_cache=[False] * KEYS_A_CALL,
        peer=dht.node_info(None),
    )


async def _ping_for_ever(peer: TargetPeer, host: str, rng: random.Random) -> None:
    while True:
        with contextlib.suppress(*FAILURES):
            async with Stranger(host=host) as stranger:
                connection = await stranger.dial(peer.tcp_address)
                while True:
                    await _ping_at_once(connection, rng)
        await asyncio.sleep(0.05)


async def _ping_at_once(connection: Connection, rng: random.Random) -> None:
    """Raises what the first ping has raised that failed. All are waited for: a `gather` that raises at once forgets
    that it was cancelled when a ping fails of that."""
    pings = (_ping(connection, rng) for _ in range(PINGS_A_ROUND))
    for failure in await asyncio.gather(*pings, return_exceptions=True):
        if failure is not None:
            raise failure


async def _ping(connection: Connection, rng: random.Random) -> None:
    invented = dht_pb2.NodeInfo(node_id=rng.randbytes(20))
    request = dht_pb2.PingRequest(peer=invented, validate=False)
    await dht.call(connection, dht.PING, request.SerializeToString())


async def stored_keys(peer: TargetPeer, keys: range) -> int:
    """How many of the keys `m0`, `m1` and so on a peer has something under."""
    found = 0
    async with Stranger() as stranger:
        connection = await stranger.dial(peer.tcp_address)
        for first in range(keys.start, keys.stop, KEYS_A_CALL):
            ids = [key_id(f"p2pnet/1/model/m{number}") for number in range(first, first + KEYS_A_CALL)]
            response = await dht.find(connection, *ids)
            found += sum(result.type == dht_pb2.FOUND_DICTIONARY for result in response.results)
    return found
