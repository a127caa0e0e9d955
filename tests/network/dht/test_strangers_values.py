"""What strangers hand us, byte by byte, without any daemon: values to store, and dictionaries that they answer."""

from __future__ import annotations

import random
import struct
from typing import Any

import msgspec
import pytest
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.proto import dht_pb2
from hivemind.utils.serializer import MSGPackSerializer
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnet.directory import model_key, validator
from p2pnet.network.dht.answering import STORES_PER_MINUTE_PER_GROUP, STORES_PER_MINUTE_PER_PEER, Answering
from p2pnet.network.dht.call_limits import Caller
from p2pnet.network.dht.calls import STORE
from p2pnet.network.dht.messages import (
    MAX_RESPONSE_BYTES,
    Malformed,
    Sender,
    Stored,
    StoreRequest,
    decode_find_response,
    decode_store_response,
    encode_store_request,
)
from p2pnet.network.dht.node import MAX_BELIEVED, acceptable_values
from p2pnet.network.dht.routing_table import RoutingTable
from p2pnet.network.dht.storage import Storage
from p2pnet.network.dht.values import MAX_VALUES_PER_KEY, pack_dictionary, pack_value, unpack_value
from p2pnet.network.interface import StoredValue, Validator, key_id
from p2pnet.records import MAX_RECORD_BYTES, seal
from tests.depth import examples
from tests.stories import NOW_MS, ManualClock, capability, peer

WORKER = peer("worker")
OTHER = peer("other")

KEY = model_key("tiny")
KEY_ID = key_id(KEY)
SEALED = seal(capability(WORKER), WORKER)
EXPIRES_MS = capability(WORKER).expires_ms
EXPIRES_S = EXPIRES_MS / 1000

SUBKEY = MSGPackSerializer.dumps(WORKER.peer_id)
VALUE = MSGPackSerializer.dumps(SEALED)

CHECK = validator(lambda: NOW_MS)


def is_taken(key: bytes, subkey: bytes, value: bytes, expires_s: float, check: Validator = CHECK) -> bool:
    """Whether a node stores this when the worker asks it to."""
    node = Answering(RoutingTable(0), Storage(), check, lambda: NOW_MS, Sender, lambda _: None)
    request = encode_store_request(StoreRequest((Stored(key, subkey, value, expires_s),), Sender()))
    try:
        answer = node.methods()[STORE](Caller(WORKER.peer_id, "192.0.2.1/32"), request)
    except Malformed:
        return False
    return decode_store_response(answer).accepted == (True,)


def everything(_: StoredValue) -> bool:
    """A validator that would take anything: what it is never asked about has been refused before."""
    return True


def test_a_key_has_the_id_that_hivemind_gives_it() -> None:
    assert DHTID.generate(KEY.encode()).to_bytes() == KEY_ID


# ---- what we are asked to store


def test_a_worker_s_record_as_hivemind_sends_it_is_valid() -> None:
    assert is_taken(KEY_ID, SUBKEY, VALUE, EXPIRES_S)


def test_the_value_reaches_the_validator_as_it_was_stored() -> None:
    seen: list[StoredValue] = []

    def remember(value: StoredValue) -> bool:
        seen.append(value)
        return True

    assert is_taken(KEY_ID, SUBKEY, VALUE, EXPIRES_S, remember)
    assert seen == [StoredValue(KEY_ID, WORKER.peer_id, SEALED, EXPIRES_MS)]


def test_nobody_stores_for_somebody_else() -> None:
    theirs = seal(capability(OTHER), OTHER)
    assert not is_taken(KEY_ID, MSGPackSerializer.dumps(OTHER.peer_id), MSGPackSerializer.dumps(theirs), EXPIRES_S)


BAD_SUBKEYS = {
    "a plain value": DHTProtocol.IS_REGULAR_VALUE,
    "a whole dictionary": DHTProtocol.IS_DICTIONARY,
    "a number": MSGPackSerializer.dumps(7),
    "bytes": MSGPackSerializer.dumps(WORKER.peer_id.encode()),
    "a list": MSGPackSerializer.dumps([WORKER.peer_id]),
    "a truth value": MSGPackSerializer.dumps(True),
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "text cut short": SUBKEY[:-1],
    "more behind it": SUBKEY + b"\xc0",
    "an unknown extension": b"\xd4\x41\x00",
    "a dictionary extension": b"\xd4\x50\x00",
    "a broken timestamp": b"\xd4\xff\x00",
    "nesting": b"\x91" * 5000,
    "not msgpack": b"\xc1",
}

BAD_VALUES = {
    "text": MSGPackSerializer.dumps("record"),
    "nil": MSGPackSerializer.dumps(None),
    "a number": MSGPackSerializer.dumps(1),
    "a list": MSGPackSerializer.dumps([SEALED]),
    "the record without its wrapping": SEALED,
    "nothing": b"",
    "bytes cut short": VALUE[:-1],
    "more behind it": VALUE + b"\xc0",
    "bytes that claim 4 GiB": b"\xc6\xff\xff\xff\xff",
    "an extension": b"\xc7\x01\x50\x00",
    "nesting": b"\x91" * 5000,
    "not msgpack": b"\xc1",
}

BAD_EXPIRIES = {
    "NaN": float("nan"),
    "endless": float("inf"),
    "before all time": float("-inf"),
    "never": 0.0,
    "negative": -EXPIRES_S,
    "1e18": 1e18,
    "the largest float": 1.7e308,
    "the smallest float": 5e-324,
    "half a millisecond later": EXPIRES_S + 0.0005,
    "the next float": struct.unpack("<d", struct.pack("<q", struct.unpack("<q", struct.pack("<d", EXPIRES_S))[0] + 1))[
        0
    ],
    "at the bound": float(1 << 43),
}


@pytest.mark.parametrize("subkey", BAD_SUBKEYS.values(), ids=BAD_SUBKEYS)
def test_a_bad_subkey_is_refused(subkey: bytes) -> None:
    for check in (CHECK, everything):
        assert not is_taken(KEY_ID, subkey, VALUE, EXPIRES_S, check)


@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_is_refused(value: bytes) -> None:
    for check in (CHECK, everything):
        assert not is_taken(KEY_ID, SUBKEY, value, EXPIRES_S, check)


@pytest.mark.parametrize("expires_s", BAD_EXPIRIES.values(), ids=BAD_EXPIRIES)
def test_a_bad_expiry_is_refused(expires_s: float) -> None:
    for check in (CHECK, everything):
        assert not is_taken(KEY_ID, SUBKEY, VALUE, expires_s, check)


def test_every_millisecond_of_our_time_survives_the_way_through_seconds() -> None:
    rng = random.Random(2)
    for expected_ms in rng.sample(range(1_000_000_000_000, 4_000_000_000_000), 2000):
        value = unpack_value(KEY_ID, WORKER.peer_id, VALUE, expected_ms / 1000)
        assert value is not None and value.expires_ms == expected_ms


FUZZ = settings(derandomize=True, deadline=None, max_examples=examples(200))


@FUZZ
@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80), st.floats())
def test_any_bytes_are_refused_in_silence(key: bytes, subkey: bytes, value: bytes, expires_s: float) -> None:
    assert not is_taken(key, subkey, value, expires_s)
    assert not is_taken(KEY_ID, SUBKEY, value, expires_s)
    assert not is_taken(KEY_ID, subkey, VALUE, EXPIRES_S)


# ---- what others answer

HONEST = [
    StoredValue(KEY_ID, identity.peer_id, seal(capability(identity), identity), EXPIRES_MS)
    for identity in (WORKER, OTHER)
]
HONEST_ITEMS = [[value.subkey, MSGPackSerializer.dumps(value.value), EXPIRES_S] for value in HONEST]


async def values_in(packed: bytes, kind: int = dht_pb2.FOUND_DICTIONARY) -> list[StoredValue]:
    """What we make of one peer's answer to one key."""
    response = dht_pb2.FindResponse(results=[dht_pb2.FindResult(type=kind, value=packed)])
    (result,) = decode_find_response(response.SerializeToString()).results
    return await acceptable_values(KEY_ID, result.dictionary, CHECK)


def dictionary(items: Any, head: tuple[Any, Any] = (1000, EXPIRES_S), code: int = 0x50) -> bytes:
    """A dictionary as hivemind packs it; msgspec.Raw stands for bytes of an attacker's own."""
    packed = msgspec.msgpack.encode([*head, items])
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, packed))


async def test_a_dictionary_as_hivemind_packs_it_is_read() -> None:
    theirs = DictionaryDHTValue()
    for subkey, value, expires_s in HONEST_ITEMS:
        theirs.store(subkey, value, expires_s)
    assert await values_in(MSGPackSerializer.dumps(theirs)) == HONEST
    assert await values_in(dictionary(HONEST_ITEMS)) == HONEST


BAD_ITEMS: dict[str, Any] = {
    "nil": None,
    "a number": 5,
    "text": "item",
    "an empty list": [],
    "two parts": [WORKER.peer_id, VALUE],
    "four parts": [WORKER.peer_id, VALUE, EXPIRES_S, 1],
    "a subkey of bytes": [WORKER.peer_id.encode(), VALUE, EXPIRES_S],
    "no subkey": [None, VALUE, EXPIRES_S],
    "a stranger's subkey": [OTHER.peer_id, VALUE, EXPIRES_S],
    "a value as text": [WORKER.peer_id, "value", EXPIRES_S],
    "a value without wrapping": [WORKER.peer_id, SEALED, EXPIRES_S],
    "an expiry as text": [WORKER.peer_id, VALUE, "later"],
    "an expiry that is no number": [WORKER.peer_id, VALUE, float("nan")],
    "an endless expiry": [WORKER.peer_id, VALUE, float("inf")],
    "an expiry of 1e18": [WORKER.peer_id, VALUE, 1e18],
    "a later expiry": [WORKER.peer_id, VALUE, EXPIRES_S + 1],
    "half a millisecond more": [WORKER.peer_id, VALUE, EXPIRES_S + 0.0005],
    "an expiry of 64 bits": [WORKER.peer_id, VALUE, (1 << 64) - 1],
    "64 KiB of junk": [WORKER.peer_id, MSGPackSerializer.dumps(bytes(1 << 16)), EXPIRES_S],
    "text that is not UTF-8": msgspec.Raw(b"\x93\xa2\xff\xfe\xc4\x00\x01"),
    "an unknown extension": msgspec.Raw(b"\xd4\x41\x00"),
    "an extension as subkey": msgspec.Raw(b"\x93\xd4\x50\x00\xc4\x00\x01"),
    "a tuple of hivemind": msgspec.Raw(msgspec.msgpack.encode(msgspec.msgpack.Ext(0x40, b"\x93\x01\x02\x03"))),
    "a broken timestamp": msgspec.Raw(b"\xd4\xff\x00"),
    "a dictionary in the dictionary": msgspec.Raw(dictionary(HONEST_ITEMS)),
    "some nesting": msgspec.Raw(b"\x91" * 50 + b"\xc0"),
}


@pytest.mark.parametrize("item", BAD_ITEMS.values(), ids=BAD_ITEMS)
async def test_one_bad_entry_hides_no_good_one(item: Any) -> None:
    for position in range(3):
        items = [*HONEST_ITEMS[:position], item, *HONEST_ITEMS[position:]]
        assert await values_in(dictionary(items)) == HONEST


async def test_all_bad_entries_together_hide_no_good_one() -> None:
    assert await values_in(dictionary([*BAD_ITEMS.values(), *HONEST_ITEMS, *BAD_ITEMS.values()])) == HONEST


@pytest.mark.parametrize("head", [(None, None), ("a", "b"), (-1, float("nan")), (0, float("inf")), ([], {})])
async def test_size_and_latest_expiry_of_a_dictionary_are_not_believed(head: tuple[Any, Any]) -> None:
    assert await values_in(dictionary(HONEST_ITEMS, head)) == HONEST


GARBAGE = {
    "nothing": b"",
    "nil": b"\xc0",
    "text": MSGPackSerializer.dumps("dictionary"),
    "bytes": MSGPackSerializer.dumps(b"dictionary"),
    "the list without its extension": msgspec.msgpack.encode([1000, EXPIRES_S, HONEST_ITEMS]),
    "another extension": dictionary(HONEST_ITEMS, code=0x51),
    "a timestamp": dictionary(HONEST_ITEMS, code=-1),
    "an empty extension": b"\xc7\x00\x50",
    "an extension that claims 4 GiB": b"\xc9\xff\xff\xff\xff\x50",
    "one part": msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, b"\x91\x01")),
    "four parts": msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, b"\x94\x01\x02\x90\x03")),
    "items as a map": dictionary({"a": 1}),
    "items as nil": dictionary(None),
    "a list that claims 4 G items": msgspec.msgpack.encode(
        msgspec.msgpack.Ext(0x50, b"\x93\x01\x02\xdd\xff\xff\xff\xff")
    ),
    "nesting": b"\x91" * 100_000,
    "nesting inside": msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, b"\x93\x01\x02\x91" + b"\x91" * 100_000)),
    "nesting in the head": msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, b"\x93" + b"\x91" * 100_000)),
    "a broken timestamp in the head": msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, b"\x93\xd4\xff\x00\x01\x90")),
    "unhashable keys in the head": msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, b"\x93\x81\x90\x01\x01\x90")),
    "text that is not UTF-8 in the head": msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, b"\x93\xa1\xff\x01\x90")),
    "more behind it": dictionary(HONEST_ITEMS) + b"\xc0",
    "64 KiB of junk": random.Random(4).randbytes(1 << 16),
}


@pytest.mark.parametrize("packed", GARBAGE.values(), ids=GARBAGE)
async def test_a_garbage_dictionary_is_empty(packed: bytes) -> None:
    assert await values_in(packed) == []


@pytest.mark.parametrize("kind", [dht_pb2.NOT_FOUND, dht_pb2.FOUND_REGULAR])
async def test_only_a_dictionary_is_an_answer(kind: int) -> None:
    assert await values_in(dictionary(HONEST_ITEMS), kind) == []
    assert await values_in(VALUE, kind) == []


async def test_a_dictionary_cut_anywhere_is_empty() -> None:
    packed = dictionary(HONEST_ITEMS)
    assert all([await values_in(packed[:length]) == [] for length in range(0, len(packed), 3)])


@FUZZ
@given(st.binary(max_size=200), st.booleans())
async def test_any_bytes_are_an_empty_dictionary(junk: bytes, is_wrapped: bool) -> None:
    assert await values_in(msgspec.msgpack.encode(msgspec.msgpack.Ext(0x50, junk)) if is_wrapped else junk) == []


# ---- what we answer


async def test_hivemind_reads_our_dictionaries() -> None:
    packed = pack_dictionary([(value.subkey, pack_value(value.value), EXPIRES_S) for value in HONEST], EXPIRES_S)
    theirs = MSGPackSerializer.loads(packed)
    assert isinstance(theirs, DictionaryDHTValue)
    with theirs.freeze():
        assert {subkey: MSGPackSerializer.loads(item.value) for subkey, item in theirs.items()} == {
            value.subkey: value.value for value in HONEST
        }


def test_the_largest_values_of_a_full_dictionary_fit_into_one_reply() -> None:
    value = pack_value(bytes(MAX_RECORD_BYTES))
    entries = ((f"{number:052}", value, EXPIRES_S) for number in range(MAX_VALUES_PER_KEY))
    assert len(pack_dictionary(entries, EXPIRES_S)) < MAX_RESPONSE_BYTES


def test_of_one_peer_and_one_group_only_so_many_values_are_looked_at_in_a_minute() -> None:
    """Each costs the check of a signature: a call may bring 32, and there may be many calls."""
    checked = []
    clock = ManualClock()
    node = Answering(RoutingTable(0), Storage(), lambda value: not checked.append(value), clock, Sender, lambda _: None)

    def store(who: str, group: str) -> None:
        peer_id = peer(who).peer_id
        value = Stored(KEY_ID, MSGPackSerializer.dumps(peer_id), VALUE, EXPIRES_S)
        node.methods()[STORE](Caller(peer_id, group), encode_store_request(StoreRequest((value,) * 32, Sender())))

    for _ in range(10):
        store("greedy", "its group")
    assert len(checked) == STORES_PER_MINUTE_PER_PEER // 6
    for number in range(100):
        store(f"identity {number}", "its group")
    assert len(checked) == STORES_PER_MINUTE_PER_GROUP // 6
    store("another", "another group")
    assert len(checked) == STORES_PER_MINUTE_PER_GROUP // 6 + 32
    clock.advance(60)
    store("greedy", "its group")
    assert len(checked) == STORES_PER_MINUTE_PER_GROUP // 6 + 64


async def test_of_a_flooded_answer_a_choice_is_looked_at() -> None:
    """Whatever a node tells under one key: the check of a signature for each would hold a reader up."""
    packed = [(f"{number}", VALUE, EXPIRES_S) for number in range(2 * MAX_VALUES_PER_KEY)]
    looked_at = []
    await acceptable_values(KEY_ID, dictionary(packed), lambda value: not looked_at.append(value))
    assert len(looked_at) == MAX_BELIEVED
