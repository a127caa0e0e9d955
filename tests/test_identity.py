"""The key file, the peer id and signatures: against libp2p's own vectors, and against every way to forge them."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import base58
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnet.errors import UsageError
from p2pnet.identity import Identity, public_key_of, verify
from tests.depth import examples

# The key pair of https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md#test-vectors. The peer id was made
# with hivemind's crypto_pb2 and base58: b58encode(00 24 + PublicKey(Ed25519, key).SerializeToString()).
SEED = bytes.fromhex("7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d")
PUBLIC = bytes.fromhex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
KEY_FILE = bytes.fromhex("08011240") + SEED + PUBLIC
PEER_ID = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"

IDENTITY = Identity.from_seed(SEED)
OTHER = Identity.from_seed(bytes(range(32)))

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of Ed25519 (RFC 8032): S and S + order pass a careless check alike."""


def test_a_known_seed_has_its_known_peer_id_and_key_file() -> None:
    assert IDENTITY.peer_id == PEER_ID
    assert IDENTITY.to_bytes() == KEY_FILE
    assert public_key_of(PEER_ID) == PUBLIC


def test_rfc_8032_key_has_its_peer_id() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert Identity.from_seed(seed).peer_id == "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"


def test_a_known_key_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_bytes(KEY_FILE)
    assert Identity.load(path).peer_id == PEER_ID


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "identity"
    made = Identity.load_or_create(path)
    assert path.read_bytes() == made.to_bytes()
    assert Identity.load(path).peer_id == Identity.load_or_create(path).peer_id == made.peer_id
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_the_key_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Identity.load_or_create(tmp_path / "identity")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o600


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    IDENTITY.save(path)
    with pytest.raises(FileExistsError):
        OTHER.save(path)
    assert path.read_bytes() == KEY_FILE
    assert list(tmp_path.iterdir()) == [path]


def test_creators_that_race_agree_on_one_key(tmp_path: Path) -> None:
    # Threads share a process id, as the first processes of two containers with one data volume do.
    creators = 6
    with ThreadPoolExecutor(creators) as pool:
        for attempt in range(25):
            path, start = tmp_path / str(attempt), threading.Barrier(creators)

            def create(path: Path = path, start: threading.Barrier = start) -> str:
                start.wait()
                return Identity.load_or_create(path).peer_id

            seen = {creator.result() for creator in [pool.submit(create) for _ in range(creators)]}
            assert seen == {Identity.load(path).peer_id}


RSA_KEY_FILE = bytes.fromhex("080012d904") + b"\x30\x82" + bytes(599)

BROKEN_FILES = {
    "empty": b"",
    "a short prefix": KEY_FILE[:3],
    "cut by one byte": KEY_FILE[:-1],
    "one byte too many": KEY_FILE + b"\n",
    "RSA": RSA_KEY_FILE,
    "Secp256k1": bytes.fromhex("08021220") + SEED,
    "the old form with the public key twice": bytes.fromhex("08011260") + SEED + PUBLIC + PUBLIC,
    "a bare seed": SEED,
    "PEM": b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n",
    "hexadecimal": KEY_FILE.hex().encode(),
    "another's public key": KEY_FILE[:36] + OTHER.to_bytes()[36:],
    "a flipped bit in the seed": KEY_FILE[:10] + bytes([KEY_FILE[10] ^ 1]) + KEY_FILE[11:],
    "a flipped bit in the public key": KEY_FILE[:-1] + bytes([KEY_FILE[-1] ^ 1]),
    "zeros": bytes(68),
    "64 KiB of junk": b"\x08\x01\x12\x40" * (1 << 14),
}


@pytest.mark.parametrize("content", BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_key_file_is_a_usage_error_with_a_fix(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity"
    path.write_bytes(content)
    for read in (Identity.load, Identity.load_or_create):
        with pytest.raises(UsageError) as raised:
            read(path)
        assert str(path) in raised.value.message
        assert "--identity" in raised.value.fix
    assert path.read_bytes() == content


def test_a_path_that_cannot_hold_a_file_is_a_usage_error_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at-all")
    for path in (tmp_path, tmp_path / "file" / "identity", tmp_path / "dangling", tmp_path / ("n" * 300)):
        with pytest.raises(UsageError) as raised:
            Identity.load_or_create(path)
        assert "--identity" in raised.value.fix


def test_a_missing_key_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Identity.load(tmp_path / "identity")


# ---- signatures

SIGNATURE = IDENTITY.sign("domain", b"payload")


def _malleated(signature: bytes) -> bytes:
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return signature[:32] + scalar.to_bytes(32, "little")


FORGERIES = {
    "another domain": (PEER_ID, "domain2", b"payload", SIGNATURE),
    "a domain in capitals": (PEER_ID, "Domain", b"payload", SIGNATURE),
    "another payload": (PEER_ID, "domain", b"payloae", SIGNATURE),
    "an empty payload": (PEER_ID, "domain", b"", SIGNATURE),
    "a byte moved from payload to domain": (PEER_ID, "domainp", b"ayload", SIGNATURE),
    "a byte moved from domain to payload": (PEER_ID, "domai", b"npayload", SIGNATURE),
    "another peer": (OTHER.peer_id, "domain", b"payload", SIGNATURE),
    "signed by another": (PEER_ID, "domain", b"payload", OTHER.sign("domain", b"payload")),
    "no signature": (PEER_ID, "domain", b"payload", b""),
    "a short signature": (PEER_ID, "domain", b"payload", SIGNATURE[:-1]),
    "a long signature": (PEER_ID, "domain", b"payload", SIGNATURE + b"\0"),
    "zeros": (PEER_ID, "domain", b"payload", bytes(64)),
    "S plus the group's order": (PEER_ID, "domain", b"payload", _malleated(SIGNATURE)),
    "no peer": ("", "domain", b"payload", SIGNATURE),
}


def test_a_signature_verifies_for_its_peer_domain_and_payload() -> None:
    assert len(SIGNATURE) == 64
    assert verify(PEER_ID, "domain", b"payload", SIGNATURE)
    assert verify(PEER_ID, "", b"", IDENTITY.sign("", b""))


@pytest.mark.parametrize("claim", FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_does_not_verify(claim: tuple[str, str, bytes, bytes]) -> None:
    assert verify(*claim) is False


def test_every_flipped_bit_of_a_signature_is_noticed() -> None:
    number = int.from_bytes(SIGNATURE, "big")
    for bit in range(512):
        assert not verify(PEER_ID, "domain", b"payload", (number ^ 1 << bit).to_bytes(64, "big"))


# ---- peer ids


def _encoded(prefix: str, key: bytes) -> str:
    return base58.b58encode(bytes.fromhex(prefix) + key).decode()


MALFORMED_PEER_IDS = {
    "empty": "",
    "a word": "worker",
    "cut": PEER_ID[:-1],
    "longer": PEER_ID + "1",
    "a leading zero digit": "1" + PEER_ID,
    "no leading zero byte": PEER_ID[1:],
    "a space after it": PEER_ID + " ",
    "a newline after it": PEER_ID + "\n",
    "a space before it": " " + PEER_ID,
    "a digit that base58 lacks": PEER_ID[:-1] + "0",
    "a letter that base58 lacks": PEER_ID[:-1] + "l",
    "not ASCII": PEER_ID[:-1] + "é",
    "a full-width digit": PEER_ID[:-1] + "１",
    "a lone surrogate": PEER_ID[:-1] + "\ud800",
    "NUL": PEER_ID[:-1] + "\0",
    "RSA (SHA-256)": "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    "CID form": "bafzaajaiaejcahwr5d5ofrfbis4l5d6uwr55hu5ti6dryow5r5qh2oqehzykm7hh",
    "Secp256k1": _encoded("002408021220", PUBLIC),
    "SHA-256 code": _encoded("122408011220", PUBLIC),
    "wrong multihash length": _encoded("002308011220", PUBLIC),
    "wrong key length": _encoded("00240801121f", PUBLIC),
    "31 bytes of key": _encoded("002408011220", PUBLIC[:-1]),
    "33 bytes of key": _encoded("002408011220", PUBLIC + b"\0"),
    "a megabyte": "1" * (1 << 20),
}


@pytest.mark.parametrize("peer_id", MALFORMED_PEER_IDS.values(), ids=MALFORMED_PEER_IDS)
def test_a_malformed_peer_id_has_no_key_and_has_signed_nothing(peer_id: str) -> None:
    assert public_key_of(peer_id) is None
    assert verify(peer_id, "domain", b"payload", SIGNATURE) is False


@settings(derandomize=True, deadline=None, max_examples=examples(200))
@given(
    st.text(min_size=45, max_size=56)
    | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=52)
)
def test_text_has_a_key_only_in_its_one_canonical_form(text: str) -> None:
    key = public_key_of(text)
    assert key is None or _encoded("002408011220", key) == text


@settings(derandomize=True, deadline=None, max_examples=examples(50))
@given(st.binary(min_size=32, max_size=32))
def test_any_seed_makes_a_peer_id_that_holds_its_key(seed: bytes) -> None:
    identity = Identity.from_seed(seed)
    assert public_key_of(identity.peer_id) == identity.to_bytes()[-32:]
    assert verify(identity.peer_id, "d", b"p", identity.sign("d", b"p"))
