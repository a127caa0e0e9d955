"""Calls hivemind's DHT of a peer, answers such calls, and makes records, as any stranger may.

A call is a stream of `DHTProtocol.rpc_ping` or the like, with one delimited PersistentConnectionRequest in each
direction: p2pd's own protocol.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable

import base58
import msgspec
from hivemind.proto import dht_pb2, p2pd_pb2

from bench.harness.stranger.channel import read_delimited
from bench.harness.stranger.connection import Connection
from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.yamux import MuxedStream
from p2pnet.directory import entries_for
from p2pnet.identity import Identity
from p2pnet.network.interface import key_id
from p2pnet.network.libp2p.protobuf import delimited
from p2pnet.records import CapabilityRecord, ModelCard, Record, seal
from p2pnet.wire.protocols import GENERATE, STATUS

FIND, PING, STORE = "rpc_find", "rpc_ping", "rpc_store"


class CallFailed(Exception):
    """The peer has answered with an error, whose text this is."""


def protocol_of(method: str) -> str:
    """The stream protocol of one of the DHT's methods."""
    return f"DHTProtocol.{method}"


def call_message(method: str, data: bytes, call_id: bytes | None = None) -> bytes:
    """The bytes of a call as they are sent once its protocol is agreed on; `data` is its serialized request."""
    call = p2pd_pb2.CallUnaryRequest(peer=b"", proto=protocol_of(method), data=data)
    request = p2pd_pb2.PersistentConnectionRequest(callId=call_id or uuid.uuid4().bytes, callUnary=call)
    return delimited(request.SerializeToString())


async def call(connection: Connection, method: str, data: bytes) -> bytes:
    """Call with a serialized request, whatever its bytes; returns the serialized response. Waits for as long as that
    takes. Raises CallFailed; ConnectionError, EOFError or NotAgreed when the stream is not there, or ends."""
    stream = await connection.open(protocol_of(method))
    try:
        await stream.write(call_message(method, data))
        answer = p2pd_pb2.PersistentConnectionRequest.FromString(await read_delimited(stream)).unaryResponse
    finally:
        await stream.close()
    if answer.HasField("error"):
        raise CallFailed(answer.error.decode(errors="replace"))
    return bytes(answer.response)


async def ping(connection: Connection, identity: Identity | None = None) -> dht_pb2.PingResponse:
    """With an identity the peer is asked to take it into its routing table, under its proper node id."""
    request = dht_pb2.PingRequest(peer=node_info(identity), validate=False)
    return dht_pb2.PingResponse.FromString(await call(connection, PING, request.SerializeToString()))


async def find(connection: Connection, *key_ids: bytes) -> dht_pb2.FindResponse:
    """`interface.key_id` makes a key's id from its name."""
    request = dht_pb2.FindRequest(keys=key_ids, peer=node_info(None))
    return dht_pb2.FindResponse.FromString(await call(connection, FIND, request.SerializeToString()))


async def store(connection: Connection, request: dht_pb2.StoreRequest) -> dht_pb2.StoreResponse:
    return dht_pb2.StoreResponse.FromString(await call(connection, STORE, request.SerializeToString()))


async def announce(connection: Connection, identity: Identity, record: Record) -> bool:
    """Store a record on all of its keys at one peer, as a worker does; whether the peer has taken it everywhere."""
    entries = entries_for(record, seal(record, identity))
    response = await store(
        connection,
        dht_pb2.StoreRequest(
            keys=[key_id(entry.key) for entry in entries],
            subkeys=[msgspec.msgpack.encode(identity.peer_id)] * len(entries),
            values=[msgspec.msgpack.encode(entry.value) for entry in entries],
            expiration_time=[entry.expires_ms / 1000 for entry in entries],
            in_cache=[False] * len(entries),
            peer=node_info(None),
        ),
    )
    return len(response.store_ok) == len(entries) and all(response.store_ok)


def answer(stranger: Stranger, method: str, reply: Callable[[bytes, str], Awaitable[bytes]]) -> None:
    """Serve one of the DHT's methods: `reply` is handed the serialized request and the caller's peer id, and returns
    the bytes to send as the response, whatever they are."""

    async def serve(connection: Connection, stream: MuxedStream) -> None:
        asked = p2pd_pb2.PersistentConnectionRequest.FromString(await read_delimited(stream))
        response = p2pd_pb2.CallUnaryResponse(response=await reply(asked.callUnary.data, connection.peer_id))
        message = p2pd_pb2.PersistentConnectionRequest(callId=asked.callId, unaryResponse=response)
        await stream.write(delimited(message.SerializeToString()))

    stranger.serve(protocol_of(method), serve)


def take_part(stranger: Stranger) -> None:
    """Answer as an honest node that knows nothing: pings properly, each key of a find with nothing."""

    async def pong(data: bytes, _: str) -> bytes:
        return bytes(dht_pb2.PingResponse(peer=node_info(stranger.identity), dht_time=time.time()).SerializeToString())

    async def found(data: bytes, _: str) -> bytes:
        results = [dht_pb2.FindResult(type=dht_pb2.NOT_FOUND) for _ in dht_pb2.FindRequest.FromString(data).keys]
        return bytes(dht_pb2.FindResponse(results=results, peer=node_info(stranger.identity)).SerializeToString())

    async def stored(data: bytes, _: str) -> bytes:
        count = len(dht_pb2.StoreRequest.FromString(data).keys)
        return bytes(
            dht_pb2.StoreResponse(store_ok=[True] * count, peer=node_info(stranger.identity)).SerializeToString()
        )

    for method, reply in ((PING, pong), (FIND, found), (STORE, stored)):
        answer(stranger, method, reply)


def node_id_of(peer_id: str) -> bytes:
    """The DHT's node id that follows from a peer id, as 20 bytes."""
    packed: bytes = base58.b58decode(peer_id)
    return hashlib.sha1(packed).digest()


def node_info(identity: Identity | None) -> dht_pb2.NodeInfo:
    """What a node says of itself; None says that it only asks."""
    return dht_pb2.NodeInfo(node_id=node_id_of(identity.peer_id) if identity else b"")


def capability(
    identity: Identity,
    addresses: tuple[str, ...],
    model: str = "echo",
    digest: str = "sha256:" + "0" * 64,
    lifetime_ms: int = 60_000,
    sequence: int | None = None,
) -> CapabilityRecord:
    """A worker's record, as good as any: `seal` or `announce` it with the same identity."""
    now_ms = time.time_ns() // 1_000_000
    return CapabilityRecord(
        peer_id=identity.peer_id,
        sequence=now_ms if sequence is None else sequence,
        issued_ms=now_ms,
        expires_ms=now_ms + lifetime_ms,
        models=(ModelCard(model, digest, 4096),),
        addresses=addresses,
        protocols=(GENERATE.name, STATUS.name),
    )
