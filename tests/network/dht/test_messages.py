"""Questions and answers, byte by byte: as hivemind's own protobuf writes and reads them, and what is refused."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from hivemind.proto import dht_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnet.network.dht.contact import Contact, packed_id, peer_bytes
from p2pnet.network.dht.messages import (
    MAX_FIELDS,
    MAX_KEYS,
    MAX_SUBKEY_BYTES,
    MAX_VALUE_BYTES,
    FindRequest,
    FindResponse,
    FindResult,
    Malformed,
    PingRequest,
    PingResponse,
    Sender,
    Stored,
    StoreRequest,
    StoreResponse,
    decode_find_request,
    decode_find_response,
    decode_ping_request,
    decode_ping_response,
    decode_store_request,
    decode_store_response,
    encode_find_request,
    encode_find_response,
    encode_ping_request,
    encode_ping_response,
    encode_store_request,
    encode_store_response,
)
from p2pnet.network.libp2p.protobuf import field
from tests.depth import examples
from tests.stories import peer

NODE = Contact(peer_bytes(peer("node").peer_id))
OTHER = Contact(peer_bytes(peer("other").peer_id))
SENDER = Sender(NODE.node_id)
INFO = dht_pb2.NodeInfo(node_id=packed_id(NODE.node_id))
KEYS = tuple(number.to_bytes(20, "big") for number in range(MAX_KEYS + 1))

EXCHANGES: dict[str, tuple[Any, Callable[[Any], bytes], Callable[[bytes], Any], Any]] = {
    "ping": (
        PingRequest(SENDER),
        encode_ping_request,
        decode_ping_request,
        dht_pb2.PingRequest(peer=INFO, validate=False),
    ),
    "pong": (
        PingResponse(SENDER, 1.5),
        encode_ping_response,
        decode_ping_response,
        dht_pb2.PingResponse(peer=INFO, dht_time=1.5, available=True),
    ),
    "store": (
        StoreRequest((Stored(KEYS[0], b"a", b"b", 1.5), Stored(KEYS[1], b"c", b"", 2.0)), SENDER),
        encode_store_request,
        decode_store_request,
        dht_pb2.StoreRequest(
            keys=KEYS[:2],
            subkeys=[b"a", b"c"],
            values=[b"b", b""],
            expiration_time=[1.5, 2.0],
            in_cache=[False, False],
            peer=INFO,
        ),
    ),
    "stored": (
        StoreResponse((True, False, True), SENDER),
        encode_store_response,
        decode_store_response,
        dht_pb2.StoreResponse(store_ok=[True, False, True], peer=INFO),
    ),
    "find": (
        FindRequest(KEYS[:3], SENDER),
        encode_find_request,
        decode_find_request,
        dht_pb2.FindRequest(keys=KEYS[:3], peer=INFO),
    ),
    "nothing found": (
        FindResponse((FindResult(b"", (NODE, OTHER)),), SENDER),
        encode_find_response,
        decode_find_response,
        dht_pb2.FindResponse(
            results=[
                dht_pb2.FindResult(
                    nearest_node_ids=[packed_id(NODE.node_id), packed_id(OTHER.node_id)],
                    nearest_peer_ids=[NODE.peer, OTHER.peer],
                )
            ],
            peer=INFO,
        ),
    ),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_hivemind_reads_what_we_write_and_we_what_it_writes(name: str) -> None:
    ours, encode, decode, theirs = EXCHANGES[name]
    read = type(theirs).FromString(encode(ours))
    for result in getattr(read, "results", ()):
        result.DiscardUnknownFields()  # our addresses
    assert read == theirs
    assert decode(theirs.SerializeToString()) == ours
    assert decode(encode(ours)) == ours


def test_a_found_dictionary_has_its_type_and_expiry() -> None:
    ours = FindResponse((FindResult(b"packed", (), 7.5),), Sender())
    (result,) = dht_pb2.FindResponse.FromString(encode_find_response(ours)).results
    assert (result.type, result.value, result.expiration_time) == (dht_pb2.FOUND_DICTIONARY, b"packed", 7.5)


def test_who_asks_for_nodes_alone_says_so_in_a_field_of_ours() -> None:
    request = FindRequest(KEYS[:1], Sender(), nodes_only=True)
    assert decode_find_request(encode_find_request(request)) == request
    assert list(dht_pb2.FindRequest.FromString(encode_find_request(request)).keys) == [KEYS[0]]


def _store(count: int = 1, **changes: Any) -> bytes:
    columns: dict[str, Any] = {
        "keys": KEYS[:count],
        "subkeys": [b"s"] * count,
        "values": [b"v"] * count,
        "expiration_time": [1.0] * count,
        "in_cache": [False] * count,
    }
    return bytes(dht_pb2.StoreRequest(**(columns | changes)).SerializeToString())


REFUSED: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "too many keys": (decode_find_request, encode_find_request(FindRequest(KEYS, Sender()))),
    "a key twice": (decode_find_request, field(2, KEYS[0]) * 2),
    "a key ten thousand times": (decode_find_request, field(2, KEYS[0]) * 10_000),
    "half a million empty keys": (decode_find_request, field(2, b"") * 500_000),
    "a short key": (decode_find_request, field(2, KEYS[0][1:])),
    "a long key": (decode_find_request, field(2, KEYS[0] + b"\0")),
    "a key that is a number": (decode_find_request, field(2, 7)),
    "too many fields": (decode_ping_request, field(9, 1) * (MAX_FIELDS + 1)),
    "a sender that is a number": (decode_ping_request, field(2, 7)),
    "a node id that is too long": (decode_ping_request, field(2, field(1, bytes(32)))),
    "too many values": (decode_store_request, _store(MAX_KEYS + 1)),
    "a value less": (decode_store_request, _store(values=[])),
    "a subkey more": (decode_store_request, _store(subkeys=[b"a", b"b"])),
    "no expiry": (decode_store_request, _store(expiration_time=[])),
    "half an expiry": (decode_store_request, _store(expiration_time=[]) + field(5, bytes(4))),
    "a value that is too large": (decode_store_request, _store(values=[bytes(MAX_VALUE_BYTES + 1)])),
    "a subkey that is too large": (decode_store_request, _store(subkeys=[bytes(MAX_SUBKEY_BYTES + 1)])),
    "too many results": (decode_find_response, field(2, b"") * (MAX_KEYS + 1)),
    "a group of old protobuf": (decode_find_response, b"\x0b\x0c"),
    "a field that is cut off": (decode_find_response, field(2, bytes(100))[:50]),
    "a field of 4 GiB": (decode_find_response, b"\x12\xff\xff\xff\xff\x0f"),
    "a varint without end": (decode_find_response, b"\xff" * 100),
    "four bytes": (decode_find_response, b"\xde\xad\xbe\xef"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_honest_peer_sends_is_refused(name: str) -> None:
    decode, data = REFUSED[name]
    with pytest.raises(Malformed):
        decode(data)


def test_a_plain_value_counts_as_nothing() -> None:
    result = dht_pb2.FindResult(type=dht_pb2.FOUND_REGULAR, value=b"value", expiration_time=1e18)
    response = dht_pb2.FindResponse(results=[result]).SerializeToString()
    assert decode_find_response(response).results == (FindResult(b"", ()),)


@pytest.mark.parametrize("time_s", [float("nan"), float("inf"), float("-inf")])
def test_a_clock_that_is_no_time_says_nothing(time_s: float) -> None:
    pong = dht_pb2.PingResponse(peer=INFO, dht_time=time_s).SerializeToString()
    assert decode_ping_response(pong).time_s is None


DECODERS = [
    decode_ping_request,
    decode_ping_response,
    decode_store_request,
    decode_store_response,
    decode_find_request,
    decode_find_response,
]


@settings(derandomize=True, deadline=None, max_examples=examples(300))
@given(st.binary(max_size=120), st.sampled_from(DECODERS))
def test_any_bytes_are_a_message_or_malformed(data: bytes, decode: Callable[[bytes], Any]) -> None:
    with contextlib.suppress(Malformed):
        decode(data)


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_message_with_any_byte_changed_is_a_message_or_malformed(name: str) -> None:
    rng = random.Random(5)
    ours, encode, decode, _ = EXCHANGES[name]
    data = encode(ours)
    for _ in range(300):
        changed = bytearray(data)
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        with contextlib.suppress(Malformed):
            decode(bytes(changed[: rng.randrange(1, len(changed) + 1)]))
