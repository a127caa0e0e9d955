"""Nodes of the DHT that every peer knows, and whose answers are garbage, late, endless, or none."""

from __future__ import annotations

import asyncio
import contextlib

from hivemind.proto import dht_pb2, p2pd_pb2

from bench.harness.attacks.nested_dictionaries import nested
from bench.harness.stranger import dht
from bench.harness.stranger.channel import read_delimited
from bench.harness.stranger.connection import Connection
from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.yamux import MuxedStream
from bench.harness.target import Target, TargetPeer
from p2pnet.network.libp2p.protobuf import delimited, varint

MAX_MESSAGE_BYTES = 4 << 20
FAILURES = (OSError, EOFError, TimeoutError, NotAgreed, dht.CallFailed)


def _answered(call_id: bytes, response: bytes) -> bytes:
    answer = p2pd_pb2.CallUnaryResponse(response=response)
    return delimited(p2pd_pb2.PersistentConnectionRequest(callId=call_id, unaryResponse=answer).SerializeToString())


def _results(count: int, result: dht_pb2.FindResult) -> bytes:
    return bytes(dht_pb2.FindResponse(results=[result] * count).SerializeToString())


_CALL_ID = bytes(16)
WAYS = {
    "four bytes": _answered(_CALL_ID, b"\xde\xad\xbe\xef"),
    "no envelope": b"\x04\xde\xad\xbe\xef",
    "a length that is cut off": b"\xff",
    "an error": delimited(
        p2pd_pb2.PersistentConnectionRequest(
            callId=_CALL_ID, unaryResponse=p2pd_pb2.CallUnaryResponse(error=b"\x1b[2J" * 1000)
        ).SerializeToString()
    ),
    "too many results": _answered(_CALL_ID, _results(100_000, dht_pb2.FindResult())),
    "nested": _answered(_CALL_ID, _results(1, dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=nested(250)))),
    "4 MiB announced": varint(MAX_MESSAGE_BYTES) + bytes(1000),
    "4 GiB announced": varint(1 << 32) + bytes(1000),
    "4 MiB of zeros": delimited(bytes(MAX_MESSAGE_BYTES - 8)),
    "nothing": b"",
}


async def attack(target: Target, neighbours: int = len(WAYS), pause_s: float = 0.3) -> None:
    """Each neighbour has one of WAYS, and makes itself known to the bootstrap and all workers again and again."""
    async with asyncio.TaskGroup() as group:
        for number, answer in zip(range(neighbours), [*WAYS.values()] * (1 + neighbours // len(WAYS)), strict=False):
            group.create_task(_neighbour(target, answer, f"127.0.5.{number + 1}", pause_s))


async def _neighbour(target: Target, answer: bytes, host: str, pause_s: float) -> None:
    async def serve(_: Connection, stream: MuxedStream) -> None:
        await read_delimited(stream)
        await stream.write(answer)
        if not answer:
            await asyncio.Event().wait()

    async with Stranger(host=host) as stranger:
        for method in (dht.PING, dht.STORE, dht.FIND):
            stranger.serve(dht.protocol_of(method), serve)
        await stranger.listen()
        async with asyncio.TaskGroup() as group:
            for peer in (target.bootstrap, *target.workers):
                group.create_task(_be_known(stranger, peer, pause_s))


async def _be_known(stranger: Stranger, peer: TargetPeer, pause_s: float) -> None:
    while True:
        with contextlib.suppress(*FAILURES):
            connection = await stranger.dial(peer.tcp_address)
            while True:
                async with asyncio.timeout(5.0):
                    await dht.ping(connection, stranger.identity)
                await asyncio.sleep(pause_s)
        await asyncio.sleep(pause_s)
