"""Records: what is sealed opens, and nothing else does. A hostile peer signs with its own key whatever it likes."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnet.errors import RecordRefused
from p2pnet.messages import Load, Measure
from p2pnet.network.dial_addresses import MAX_ADDRESSES
from p2pnet.records import (
    MAX_CLOCK_SKEW_MS,
    MAX_GAPS,
    MAX_INCOMPLETE,
    MAX_LIFETIME_MS,
    MAX_MODELS,
    MAX_RECORD_BYTES,
    CapabilityRecord,
    IncompleteModel,
    LoadRecord,
    Record,
    open_record,
    seal,
    sealed_size,
)
from tests.depth import examples
from tests.stories import (
    DIGEST,
    LIFETIME_MS,
    NOW_MS,
    address_of,
    capability,
    card,
    fields_of,
    load_record,
    peer,
    signed,
    stage_record,
)

WORKER = peer("worker")
STRANGER = peer("stranger")
RELAY = peer("relay")

RECORD = capability(WORKER)
SEALED = seal(RECORD, WORKER)
CIRCUIT = f"/ip4/203.0.113.9/udp/4001/quic-v1/p2p/{RELAY.peer_id}/p2p-circuit/p2p/"
CARD = fields_of(RECORD)["models"][0]

INCOMPLETE = IncompleteModel("large", DIGEST, 24, ((0, 2), (12, 18)))

ESCAPE = "\x1b[2J\x1b[31mtiny"


def is_refused(sealed: bytes, now_ms: int = NOW_MS) -> bool:
    """Any error but RecordRefused goes through: it would get a stranger into code that did not expect it."""
    try:
        open_record(sealed, now_ms)
    except RecordRefused:
        return True
    return False


def with_models(*changes: dict[str, Any]) -> dict[str, Any]:
    return {"models": [CARD | change for change in changes]}


# ---- what opens

HONEST = {
    "a capability record": RECORD,
    "a load record": load_record(WORKER),
    "a load record of one that has measured": load_record(
        WORKER, load=Load(1, 0, 8, NOW_MS, 100, 4096, *[Measure(12.5, NOW_MS)] * 3)
    ),
    "a stage": stage_record(WORKER),
    "all layers": stage_record(WORKER, 0, 24, kv_free_tokens=0, step_ms=0.0),
    "the last layer": stage_record(WORKER, 23, 24, addresses=()),
    "a stage that has gone": stage_record(WORKER, is_online=False),
    "a stage that is loading": stage_record(WORKER, is_ready=False, since_ms=NOW_MS - 1000),
    "a withdrawal": capability(WORKER, is_online=False),
    "no models, no addresses": msgspec.structs.replace(RECORD, models=(), addresses=()),
    "the longest lifetime": capability(WORKER, expires_ms=NOW_MS + MAX_LIFETIME_MS),
    "the shortest lifetime": capability(WORKER, expires_ms=NOW_MS + 1),
    "a circuit address": capability(WORKER, addresses=(CIRCUIT + WORKER.peer_id, address_of(WORKER))),
    "every address form": capability(
        WORKER,
        addresses=(
            f"/ip6/2001:db8::1/udp/1/quic-v1/p2p/{WORKER.peer_id}",
            f"/ip4/203.0.113.7/tcp/65535/p2p/{WORKER.peer_id}",
            f"/ip6/2001:db8::1/tcp/1/p2p/{RELAY.peer_id}/p2p-circuit/p2p/{WORKER.peer_id}",
        ),
    ),
    "a withdrawal of some models": capability(WORKER, "tiny", withdrawn=("large", "tiny")),
    "a withdrawal of all models": capability(WORKER, models=(), addresses=(), withdrawn=("large",), is_online=False),
    "a cold model": capability(WORKER, models=(card(is_cold=True),)),
    "several models": capability(WORKER, "org/large-7B", "tiny", "a:b@c+d"),
    "a model of which layers are missing": capability(WORKER, incomplete=(INCOMPLETE,)),
    "a driver without a whole chain": msgspec.structs.replace(RECORD, models=(), incomplete=(INCOMPLETE,)),
    "a model for both tasks": msgspec.structs.replace(RECORD, models=(card(), card(task="embed"))),
    "an embedding model": msgspec.structs.replace(RECORD, models=(card(task="embed", features=("chat",)),)),
    "the largest numbers": capability(WORKER, sequence=(1 << 53) - 1, slots=(1 << 53) - 1),
}


@pytest.mark.parametrize("record", HONEST.values(), ids=HONEST)
def test_what_is_sealed_opens_as_it_was(record: Record) -> None:
    sealed = seal(record, WORKER)
    assert open_record(sealed, NOW_MS) == record
    assert len(sealed) == sealed_size(record) <= MAX_RECORD_BYTES


def test_a_usual_record_is_small() -> None:
    assert len(SEALED) < 700


UNKNOWN_FIELDS = {
    "in the record": signed(WORKER, fields_of(RECORD) | {"colour": "green", "nested": {"a": [1, 2, None]}}),
    "in a model": signed(WORKER, fields_of(RECORD) | with_models({"layers": [0, 12]})),
    "in the envelope": signed(WORKER, fields_of(RECORD), hint=b"unsigned"),
    "with null keys and ext values": signed(
        WORKER, fields_of(RECORD) | {"later": msgspec.msgpack.Ext(7, b"x"), "none": None}
    ),
}


@pytest.mark.parametrize("sealed", UNKNOWN_FIELDS.values(), ids=UNKNOWN_FIELDS)
def test_unknown_fields_are_ignored(sealed: bytes) -> None:
    assert open_record(sealed, NOW_MS) == RECORD


# ---- when it opens


@pytest.mark.parametrize(
    ("age_ms", "opens"),
    [
        (-MAX_CLOCK_SKEW_MS - 1, False),
        (-MAX_CLOCK_SKEW_MS, True),
        (-3_000, True),
        (0, True),
        (LIFETIME_MS - 1, True),
        (LIFETIME_MS, False),
        (LIFETIME_MS + 1, False),
        (24 * 3600 * 1000, False),
    ],
)
def test_a_record_opens_between_its_issue_and_its_expiry(age_ms: int, opens: bool) -> None:
    assert is_refused(SEALED, NOW_MS + age_ms) is not opens


def test_a_record_that_has_expired_stays_expired_once_it_was_seen() -> None:
    sealed = seal(capability(WORKER, sequence=1), WORKER)
    assert not is_refused(sealed, NOW_MS)
    assert is_refused(sealed, NOW_MS + LIFETIME_MS)
    assert is_refused(sealed, NOW_MS + 100 * LIFETIME_MS)


@pytest.mark.parametrize(("late_ms", "opens"), [(0, True), (999, True), (1000, False)])
def test_grace_keeps_what_has_just_expired(late_ms: int, opens: bool) -> None:
    now_ms = RECORD.expires_ms + late_ms
    if opens:
        assert open_record(SEALED, now_ms, grace_ms=1000) == RECORD
    else:
        with pytest.raises(RecordRefused):
            open_record(SEALED, now_ms, grace_ms=1000)


# ---- attacks: a peer that signs with its own, valid key

BAD_FIELDS: dict[str, dict[str, Any]] = {
    "a lifetime over the limit": {"expires_ms": NOW_MS + MAX_LIFETIME_MS + 1},
    "an expiry in the far future": {"expires_ms": (1 << 53) - 1},
    "an expiry beyond every clock": {"expires_ms": 1 << 60},
    "an expiry beyond 64 bits of time": {"expires_ms": (1 << 64) - 1},
    "no lifetime": {"expires_ms": NOW_MS},
    "a negative lifetime": {"expires_ms": NOW_MS - 1},
    "a negative expiry": {"expires_ms": -1},
    "an expiry before its issue": {"issued_ms": NOW_MS + 4_000, "expires_ms": NOW_MS + 1_000},
    "issued in the future": {"issued_ms": NOW_MS + 60_000, "expires_ms": NOW_MS + 120_000},
    "expired": {"issued_ms": NOW_MS - 120_000, "expires_ms": NOW_MS - 60_000},
    "a negative issue": {"issued_ms": -1},
    "times as floats": {"issued_ms": float(NOW_MS), "expires_ms": NOW_MS + 0.5},
    "times as NaN": {"expires_ms": float("nan")},
    "times as text": {"expires_ms": str(NOW_MS + 1000)},
    "a version of the past": {"version": 0},
    "a version of the future": {"version": 2},
    "a version in words": {"version": "1"},
    "another peer's id": {"peer_id": STRANGER.peer_id},
    "no peer id": {"peer_id": ""},
    "a peer id as bytes": {"peer_id": WORKER.peer_id.encode()},
    "a peer id with a newline": {"peer_id": WORKER.peer_id + "\n"},
    "a negative sequence": {"sequence": -1},
    "a sequence over 53 bits": {"sequence": 1 << 53},
    "a null sequence": {"sequence": None},
    "negative slots": {"slots": -1},
    "a truth value in words": {"is_online": "no"},
    "another record's tag": {"type": "load"},
    "an unknown tag": {"type": "reputation"},
    "no tag": {"type": None},
    # addresses
    "another peer's address": {"addresses": [address_of(STRANGER)]},
    "another peer's address among its own": {"addresses": [address_of(WORKER), address_of(STRANGER)]},
    "a circuit that ends in another peer": {"addresses": [CIRCUIT + STRANGER.peer_id]},
    "a circuit that only passes through it": {
        "addresses": [f"{address_of(WORKER)}/p2p-circuit/p2p/{STRANGER.peer_id}"]
    },
    "a circuit without an end": {"addresses": [f"{address_of(WORKER)}/p2p-circuit"]},
    "an address without a peer": {"addresses": ["/ip4/203.0.113.7/tcp/31337"]},
    "something after the peer": {"addresses": [address_of(WORKER) + "/http"]},
    "a unix path that looks like an address": {"addresses": [f"/unix/tmp/p2p/{WORKER.peer_id}"]},
    "a URL": {"addresses": ["https://203.0.113.7/"]},
    "words": {"addresses": ["not a multiaddr"]},
    "an empty address": {"addresses": [""]},
    "a bare slash": {"addresses": ["/"]},
    "slashes": {"addresses": ["///"]},
    "an unknown protocol": {"addresses": [f"/warp/9/p2p/{WORKER.peer_id}"]},
    "a port out of range": {"addresses": [f"/ip4/203.0.113.7/tcp/65536/p2p/{WORKER.peer_id}"]},
    "a host out of range": {"addresses": [f"/ip4/203.0.113.256/tcp/1/p2p/{WORKER.peer_id}"]},
    "a newline after an address": {"addresses": [address_of(WORKER) + "\n"]},
    "a space before an address": {"addresses": [" " + address_of(WORKER)]},
    "escapes after an address": {"addresses": [address_of(WORKER) + "\r\n\t "]},
    "an address with NUL": {"addresses": [f"/dns4/a\0b/tcp/1/p2p/{WORKER.peer_id}"]},
    "an address with escapes": {"addresses": [f"/dns4/{ESCAPE}/tcp/1/p2p/{WORKER.peer_id}"]},
    "a long address": {"addresses": ["/ip4/203.0.113.7" * 20 + f"/p2p/{WORKER.peer_id}"]},
    "too many addresses": {"addresses": [address_of(WORKER)] * (MAX_ADDRESSES + 1)},
    "a name": {"addresses": [f"/dns4/victim.example/tcp/443/p2p/{WORKER.peer_id}"]},
    "any name": {"addresses": [f"/dns/victim.example/udp/443/quic-v1/p2p/{WORKER.peer_id}"]},
    "names behind a name": {"addresses": [f"/dnsaddr/victim.example/p2p/{WORKER.peer_id}"]},
    "WebSocket": {"addresses": [f"/ip4/203.0.113.7/tcp/80/ws/p2p/{WORKER.peer_id}"]},
    "WebSocket with a Host": {"addresses": [f"/dns4/victim.example/tcp/443/wss/p2p/{WORKER.peer_id}"]},
    "WebSocket over TLS": {"addresses": [f"/ip4/203.0.113.7/tcp/443/tls/ws/p2p/{WORKER.peer_id}"]},
    "WebTransport": {"addresses": [f"/ip4/203.0.113.7/udp/443/quic-v1/webtransport/p2p/{WORKER.peer_id}"]},
    "an older QUIC": {"addresses": [f"/ip4/203.0.113.7/udp/443/quic/p2p/{WORKER.peer_id}"]},
    "plain UDP": {"addresses": [f"/ip4/203.0.113.7/udp/53/p2p/{WORKER.peer_id}"]},
    "WebRTC": {"addresses": [f"/ip4/203.0.113.7/udp/9/webrtc-direct/p2p/{WORKER.peer_id}"]},
    "HTTP": {"addresses": [f"/ip4/203.0.113.7/tcp/80/http/p2p/{WORKER.peer_id}"]},
    "no transport": {"addresses": [f"/ip4/203.0.113.7/p2p/{WORKER.peer_id}"]},
    "no port": {"addresses": [f"/ip4/203.0.113.7/tcp/0/p2p/{WORKER.peer_id}"]},
    "only a process": {"addresses": [f"/memory/0/p2p/{WORKER.peer_id}"]},
    "only a peer": {"addresses": [f"/p2p/{WORKER.peer_id}"]},
    "a circuit through nobody": {"addresses": [f"/p2p-circuit/p2p/{WORKER.peer_id}"]},
    "a circuit through an unnamed peer": {"addresses": [f"/ip4/203.0.113.9/tcp/1/p2p-circuit/p2p/{WORKER.peer_id}"]},
    "a circuit through two relays": {"addresses": [f"{CIRCUIT}{STRANGER.peer_id}/p2p-circuit/p2p/{WORKER.peer_id}"]},
    "a circuit through a name": {
        "addresses": [f"/dns4/victim.example/tcp/1/p2p/{RELAY.peer_id}/p2p-circuit/p2p/{WORKER.peer_id}"]
    },
    "two peers, one after the other": {
        "addresses": [f"/ip4/203.0.113.7/tcp/1/p2p/{STRANGER.peer_id}/p2p/{WORKER.peer_id}"]
    },
    "a host within a host": {"addresses": [f"/ip4/203.0.113.7/ip6/::1/tcp/1/p2p/{WORKER.peer_id}"]},
    "an address with a zone": {"addresses": [f"/ip6zone/eth0/ip6/fe80::1/tcp/1/p2p/{WORKER.peer_id}"]},
    "addresses as text": {"addresses": address_of(WORKER)},
    "an address as bytes": {"addresses": [address_of(WORKER).encode()]},
    "a null address": {"addresses": [None]},
    # models
    "too many models": with_models(*({"id": str(number), "digest": DIGEST} for number in range(MAX_MODELS + 1))),
    "a model twice": with_models({}, {}),
    "a model twice for one task": with_models({"task": "embed"}, {"task": "embed", "digest": "sha256:" + "cd" * 32}),
    "a model twice with other digests": with_models({}, {"digest": "sha256:" + "cd" * 32}),
    "models as a map": {"models": {"tiny": CARD}},
    "a null model": {"models": [None]},
    "a nameless model": with_models({"id": ""}),
    "a long name": with_models({"id": "a" * 129}),
    "a name with a newline": with_models({"id": "tiny\nINFO worker is trusted"}),
    "a name that ends in a newline": with_models({"id": "tiny\n"}),
    "a name with escapes": with_models({"id": ESCAPE}),
    "a name with C1 escapes": with_models({"id": "tiny\x9b31m"}),
    "a name with NUL": with_models({"id": "tiny\0"}),
    "a name with a space": with_models({"id": "tiny two"}),
    "a name with right-to-left marks": with_models({"id": "tiny\u202eynit"}),
    "a name that only looks alike": with_models({"id": "tіny"}),
    "a name of markup": with_models({"id": "<script>"}),
    "a name as a path": with_models({"id": "../../etc/passwd"}),
    "a name as an option": with_models({"id": "--help"}),
    "a null name": with_models({"id": None}),
    "no digest": with_models({"digest": ""}),
    "a short digest": with_models({"digest": DIGEST[:-1]}),
    "a digest in capitals": with_models({"digest": "sha256:" + "AB" * 32}),
    "a digest that ends in a newline": with_models({"digest": DIGEST + "\n"}),
    "another hash": with_models({"digest": "md5:" + "ab" * 32}),
    "no context": with_models({"context_length": 0}),
    "a boundless context": with_models({"context_length": 1 << 25}),
    "an unknown task": with_models({"task": "mine-coins"}),
    "a quantization with escapes": with_models({"quantization": ESCAPE}),
    "a dtype that ends in a newline": with_models({"dtype": "float32\n"}),
    "a long dtype": with_models({"dtype": "f" * 65}),
    "too many features": with_models({"features": ["f"] * 33}),
    "a feature with escapes": with_models({"features": [ESCAPE]}),
    "too many withdrawn models": {"withdrawn": ["a"] * (MAX_MODELS + 1)},
    "a withdrawn model with escapes": {"withdrawn": [ESCAPE]},
    "withdrawn models as a map": {"withdrawn": {"tiny": True}},
    # labels
    "an agent with escapes": {"agent": ESCAPE},
    "an agent with a newline": {"agent": "p2pnet\nERROR"},
    "an agent that ends in a newline": {"agent": "p2pnet\n"},
    "an agent with a space": {"agent": "p2p net"},
    "an agent beyond ASCII": {"agent": "p2pnet/é"},
    "a long agent": {"agent": "a" * 65},
    "an agent of 4 KiB": {"agent": "a" * 4096},
    "an owner's name with escapes": {"name": ESCAPE},
    "an owner's name with a space": {"name": "my laptop"},
    "a long owner's name": {"name": "a" * 65},
    "a protocol with escapes": {"protocols": [ESCAPE]},
    "too many protocols": {"protocols": ["/a"] * 17},
    # bombs
    "deep nesting": {"deep": msgspec.Raw(b"\x91" * 3000 + b"\xc0")},
    "deep nesting in maps": {"deep": msgspec.Raw(b"\x81\xa1a" * 1000 + b"\xc0")},
    "deep nesting in a known field": {"models": msgspec.Raw(b"\x91" * 3000 + b"\xc0")},
    "a list that claims 4 G elements": {"models": msgspec.Raw(b"\xdd\xff\xff\xff\xff")},
    "text that claims 4 GiB": {"agent": msgspec.Raw(b"\xdb\xff\xff\xff\xff")},
    "text that is not UTF-8": {"agent": msgspec.Raw(b"\xa2\xff\xfe")},
    "a surrogate in UTF-8": {"agent": msgspec.Raw(b"\xa3\xed\xa0\x80")},
}


@pytest.mark.parametrize("changes", BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_a_bad_field_is_refused_whoever_signed_it(changes: dict[str, Any]) -> None:
    assert is_refused(signed(WORKER, fields_of(RECORD) | changes))


BAD_LOADS: dict[str, dict[str, Any]] = {
    "negative speed": {"load": {"decode_tokens_per_s": [-1.0, 1]}},
    "boundless speed": {"load": {"prefill_tokens_per_s": [float("inf"), 1]}},
    "speed that is no number": {"load": {"first_token_s": [float("nan"), 1]}},
    "speed without its time as a number": {"load": {"decode_tokens_per_s": 12.5}},
    "speed measured before all time": {"load": {"decode_tokens_per_s": [12.5, -1]}},
    "negative memory": {"load": {"kv_free_tokens": -1}},
    "negative load": {"load": {"running": -1}},
    "load as text": {"load": "idle"},
    "no load": {"load": None},
    "a lifetime over the limit": {"expires_ms": NOW_MS + MAX_LIFETIME_MS + 1},
    "another peer": {"peer_id": STRANGER.peer_id},
}


@pytest.mark.parametrize("changes", BAD_LOADS.values(), ids=BAD_LOADS)
def test_a_bad_load_record_is_refused(changes: dict[str, Any]) -> None:
    assert is_refused(signed(WORKER, fields_of(load_record(WORKER)) | changes))


BAD_INCOMPLETE: dict[str, dict[str, Any]] = {
    "nothing is missing": {"missing": []},
    "a gap of no layers": {"missing": [[3, 3]]},
    "a gap backwards": {"missing": [[5, 3]]},
    "gaps that are one": {"missing": [[3, 5], [5, 7]]},
    "gaps backwards": {"missing": [[6, 7], [3, 5]]},
    "a gap with three ends": {"missing": [[3, 5, 7]]},
    "more layers than the model has": {"missing": [[3, 25]]},
    "more layers than any model has": {"layers": 1025},
    "more gaps than are told": {"missing": [[2 * n, 2 * n + 1] for n in range(MAX_GAPS + 1)], "layers": 100},
    "a name with escapes": {"id": ESCAPE},
    "no digest": {"digest": "tiny"},
}


@pytest.mark.parametrize("changes", BAD_INCOMPLETE.values(), ids=BAD_INCOMPLETE)
def test_a_record_with_a_bad_incomplete_model_is_refused(changes: dict[str, Any]) -> None:
    model = msgspec.to_builtins(INCOMPLETE)
    assert not is_refused(signed(WORKER, fields_of(RECORD) | {"incomplete": [model]}))
    assert is_refused(signed(WORKER, fields_of(RECORD) | {"incomplete": [model | changes]}))


BAD_STAGES: dict[str, dict[str, Any]] = {
    "no layers": {"first": 12},
    "layers backwards": {"first": 13},
    "more layers than the model has": {"layers": 11},
    "layers before the first": {"first": -1},
    "more layers than any model has": {"layers": 1025},
    "half a layer": {"last": 11.5},
    "no digest": {"digest": "tiny"},
    "negative memory": {"kv_free_tokens": -1},
    "negative time": {"step_ms": -1.0},
    "time that is no number": {"step_ms": float("nan")},
    "before there was time": {"since_ms": -1},
    "somebody else's address": {"addresses": [address_of(STRANGER)]},
    "an address that is none": {"addresses": ["/dns4/example.org/tcp/1/p2p/" + WORKER.peer_id]},
    "a lifetime over the limit": {"expires_ms": NOW_MS + MAX_LIFETIME_MS + 1},
    "another peer": {"peer_id": STRANGER.peer_id},
    "another version": {"version": 2},
}


@pytest.mark.parametrize("changes", BAD_STAGES.values(), ids=BAD_STAGES)
def test_a_bad_record_of_a_stage_is_refused(changes: dict[str, Any]) -> None:
    assert is_refused(signed(WORKER, fields_of(stage_record(WORKER)) | changes))


@pytest.mark.parametrize("field", ["type", "peer_id", "sequence", "issued_ms", "expires_ms", "models", "addresses"])
def test_a_missing_field_is_refused(field: str) -> None:
    fields = fields_of(RECORD)
    del fields[field]
    assert is_refused(signed(WORKER, fields))


# ---- attacks: envelopes

PAYLOAD = msgspec.msgpack.encode(RECORD)
OTHER_PAYLOAD = msgspec.msgpack.encode(capability(WORKER, "other"))
SIGNATURE = WORKER.sign("p2pnet/record/1", PAYLOAD)


def padded(size: int) -> bytes:
    """The record in an envelope of `size` bytes."""
    overhead = len(signed(WORKER, fields_of(RECORD), junk=bytes(256))) - 256
    return signed(WORKER, fields_of(RECORD), junk=bytes(size - overhead))


def envelope(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


BAD_ENVELOPES = {
    "signed by another": signed(STRANGER, fields_of(RECORD)),
    "signed for another purpose": signed(WORKER, fields_of(RECORD), domain="p2pnet/receipt/1"),
    "signed for no purpose": signed(WORKER, fields_of(RECORD), domain=""),
    "no signature": envelope(payload=PAYLOAD),
    "an empty signature": envelope(payload=PAYLOAD, signature=b""),
    "a signature of zeros": envelope(payload=PAYLOAD, signature=bytes(64)),
    "a signature as text": envelope(payload=PAYLOAD, signature="s" * 64),
    "a null signature": envelope(payload=PAYLOAD, signature=None),
    "another record's signature": envelope(payload=OTHER_PAYLOAD, signature=SIGNATURE),
    "no payload": envelope(signature=SIGNATURE),
    "an empty payload": signed(WORKER, b""),
    "a payload of nil": signed(WORKER, None),
    "a payload of text": signed(WORKER, "record"),
    "a payload of a list": signed(WORKER, list(fields_of(RECORD).values())),
    "a payload with more behind it": signed(WORKER, PAYLOAD + b"\xc0"),
    "a record without envelope": PAYLOAD,
    "more behind the envelope": SEALED + b"\xc0",
    "a null byte before it": b"\0" + SEALED,
    "an envelope as a list": msgspec.msgpack.encode([PAYLOAD, SIGNATURE]),
    "nothing": b"",
    "nil": b"\xc0",
    "JSON": msgspec.json.encode(RECORD),
    "64 KiB of zeros": bytes(1 << 16),
    "64 KiB of junk": random.Random(1).randbytes(1 << 16),
    "64 KiB of nesting": b"\x91" * (1 << 16),
    "64 KiB behind a record": SEALED + bytes(1 << 16),
    "64 KiB in a field that nobody knows": signed(WORKER, fields_of(RECORD) | {"junk": bytes(1 << 16)}),
    "a valid record of one byte too many": padded(MAX_RECORD_BYTES + 1),
}


@pytest.mark.parametrize("sealed", BAD_ENVELOPES.values(), ids=BAD_ENVELOPES)
def test_a_bad_envelope_is_refused(sealed: bytes) -> None:
    assert is_refused(sealed)


def test_the_size_limit_is_exact() -> None:
    largest = padded(MAX_RECORD_BYTES)
    assert len(largest) == MAX_RECORD_BYTES
    assert open_record(largest, NOW_MS) == RECORD
    assert len(BAD_ENVELOPES["a valid record of one byte too many"]) == MAX_RECORD_BYTES + 1


# ---- attacks: bytes


def test_a_record_cut_anywhere_is_refused() -> None:
    assert all(is_refused(SEALED[:length]) for length in range(len(SEALED)))


def test_a_record_with_any_bit_flipped_is_refused() -> None:
    number, bits = int.from_bytes(SEALED, "big"), 8 * len(SEALED)
    for bit in random.Random(7).sample(range(bits), 1200):
        assert is_refused((number ^ 1 << bit).to_bytes(len(SEALED), "big")), f"bit {bit} from the end"


FUZZ = settings(derandomize=True, deadline=None, max_examples=examples(150))

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=40)
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
ADDRESS_PARTS = st.sampled_from(
    [
        "ip4",
        "ip6",
        "tcp",
        "udp",
        "dns4",
        "p2p",
        "p2p-circuit",
        "unix",
        "onion3",
        "certhash",
        "memory",
        "ip6zone",
        "203.0.113.7",
        "::1",
        "1",
        "",
        "é",
        "\0",
        "a" * 80,
        WORKER.peer_id,
        STRANGER.peer_id,
    ]
)
ADDRESSES = st.lists(ADDRESS_PARTS, max_size=8).map(lambda parts: "/" + "/".join(parts))


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(junk: bytes) -> None:
    assert is_refused(junk)


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_though_signed(junk: bytes) -> None:
    assert is_refused(signed(WORKER, junk))


@FUZZ
@given(ANYTHING)
def test_any_signed_value_is_refused(value: Any) -> None:
    assert is_refused(signed(WORKER, value))


@FUZZ
@given(st.sampled_from(CapabilityRecord.__struct_fields__ + LoadRecord.__struct_fields__), ANYTHING)
def test_any_value_in_any_field_is_refused_or_harmless(field: str, value: Any) -> None:
    for record in (RECORD, load_record(WORKER)):
        is_refused(signed(WORKER, fields_of(record) | {field: value}))


@FUZZ
@given(ADDRESSES)
def test_any_address_is_refused_or_its_own(address: str) -> None:
    if not is_refused(signed(WORKER, fields_of(RECORD) | {"addresses": [address]})):
        assert address.endswith(f"/p2p/{WORKER.peer_id}")


# ---- sealing

NOT_SEALED = {
    "another's record": capability(STRANGER),
    "another's address": capability(WORKER, addresses=(address_of(STRANGER),)),
    "an endless lifetime": capability(WORKER, expires_ms=NOW_MS + MAX_LIFETIME_MS + 1),
    "no lifetime": capability(WORKER, expires_ms=NOW_MS),
    "another version": capability(WORKER, version=2),
    "a name with escapes": capability(WORKER, ESCAPE),
    "an agent with a newline": capability(WORKER, agent="p2pnet\n"),
    "too many models": capability(WORKER, *map(str, range(MAX_MODELS + 1))),
    "more than the size limit": capability(WORKER, *(f"{number:0>60}" for number in range(MAX_MODELS))),
    "a speed that is no number": load_record(WORKER, load=Load(decode_tokens_per_s=Measure(float("nan")))),
    "too many withdrawn models": capability(WORKER, withdrawn=tuple(map(str, range(MAX_MODELS + 1)))),
    "a withdrawn model with escapes": capability(WORKER, withdrawn=(ESCAPE,)),
    "more incomplete models than are told": capability(WORKER, incomplete=(INCOMPLETE,) * (MAX_INCOMPLETE + 1)),
    "negative load": load_record(WORKER, load=Load(running=-1)),
}


@pytest.mark.parametrize("record", NOT_SEALED.values(), ids=NOT_SEALED)
def test_what_would_be_refused_is_not_sealed(record: Record) -> None:
    with pytest.raises(RecordRefused):
        seal(record, WORKER)
