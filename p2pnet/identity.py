"""Makes and keeps a peer's identity: the key file, the peer id, and signatures.

The peer id contains the public key (an identity multihash), so a signature is checked from the id alone. Knows
nothing of what is signed. Key file and peer id follow https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
"""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2pnet.errors import UsageError
from p2pnet.private_files import NOBODY_ELSE, read_private

_KEY_FILE_PREFIX = bytes.fromhex("08011240")
"""Protobuf of libp2p's PrivateKey: Type = Ed25519 (1), Data = 64 bytes, the seed followed by the public key."""

_PEER_ID_PREFIX = bytes.fromhex("002408011220")
"""Identity multihash (0x00) of 36 bytes: protobuf PublicKey, Type = Ed25519 (1), Data = 32 bytes."""

MAX_KNOWN_KEYS = 1024
"""Peer ids whose keys are remembered, some 300 kB: base58 takes as long as half a check of a signature."""

_SEED_BYTES = 32
_PUBLIC_KEY_BYTES = 32


class Identity:
    """A private key and the peer id it stands for."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self._public_bytes = private_key.public_key().public_bytes_raw()
        self.peer_id: str = base58.b58encode(_PEER_ID_PREFIX + self._public_bytes).decode()

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity of a 32-byte seed: the same seed, the same peer id."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a key file. Raises UsageError when it is no Ed25519 key of libp2p's format, or not ours alone."""
        data = _read_key_file(path)
        seed, public = data[4 : 4 + _SEED_BYTES], data[4 + _SEED_BYTES :]
        has_right_form = data.startswith(_KEY_FILE_PREFIX) and len(data) == 4 + _SEED_BYTES + _PUBLIC_KEY_BYTES
        if not has_right_form or cls.from_seed(seed)._public_bytes != public:
            raise UsageError(
                f"{path} is not an Ed25519 identity file.",
                "Name another file with --identity, or remove this one to have a new identity made.",
            )
        return cls.from_seed(seed)

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Read the key file, or make one that only its owner may read. Two processes that race agree on one key."""
        if _exists(path):
            return cls.load(path)
        identity = cls.generate()
        try:
            identity.save(path)
        except FileExistsError:
            return cls.load(path)
        return identity

    def save(self, path: Path) -> None:
        """Write a new key file, all of it or nothing. Raises FileExistsError when there is one already."""
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self.to_bytes())
                os.link(partial, path)
            finally:
                partial.unlink()
        except FileExistsError:
            raise
        except OSError as error:
            raise UsageError(
                f"The identity file {path} cannot be written: {error.strerror}.",
                "Name another file with --identity, or another data folder with P2PNET_DATA_DIR.",
            ) from error

    def to_bytes(self) -> bytes:
        """libp2p's PrivateKey protobuf, as p2pd reads it."""
        return _KEY_FILE_PREFIX + self._private_key.private_bytes_raw() + self._public_bytes

    def sign(self, domain: str, payload: bytes) -> bytes:
        """64-byte signature of `payload` for one purpose: a signature of another domain never verifies."""
        return self._private_key.sign(_signed_bytes(domain, payload))


def verify(peer_id: str, domain: str, payload: bytes, signature: bytes) -> bool:
    """Whether `peer_id` signed `payload` for this purpose. A malformed peer id has signed nothing."""
    public_bytes = public_key_of(peer_id)
    if public_bytes is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_bytes).verify(signature, _signed_bytes(domain, payload))
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=MAX_KNOWN_KEYS)
def public_key_of(peer_id: str) -> bytes | None:
    """The 32-byte public key inside an Ed25519 peer id in its one canonical form, or None."""
    if not 50 <= len(peer_id) <= 53:  # 38 bytes make 52 base58 digits; long junk must not reach the quadratic decoder
        return None
    try:
        decoded = base58.b58decode(peer_id)
    except ValueError:
        return None
    is_canonical = base58.b58encode(decoded).decode() == peer_id
    if not is_canonical or len(decoded) != 38 or not decoded.startswith(_PEER_ID_PREFIX):
        return None
    return bytes(decoded[len(_PEER_ID_PREFIX) :])


def _signed_bytes(domain: str, payload: bytes) -> bytes:
    """Length-prefixed domain and payload, as in libp2p's signed envelopes (RFC 0002): no two pairs look alike."""
    name = domain.encode()
    return len(name).to_bytes(4, "big") + name + len(payload).to_bytes(4, "big") + payload


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_key_file(path: Path) -> bytes:
    try:
        return read_private(path, NOBODY_ELSE)
    except UsageError as error:
        raise UsageError(error.message, f"{error.fix} Or name another identity file with --identity.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"The identity file {path} cannot be read: {error.strerror}.",
        "Make it readable, or name another file with --identity.",
    )
