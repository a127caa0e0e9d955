"""Secures a connection with Noise_XX_25519_ChaChaPoly_SHA256, as libp2p does: each end proves its peer id.

https://noiseprotocol.org/noise.html https://github.com/libp2p/specs/blob/master/noise/README.md
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac

import base58
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from bench.harness.stranger.channel import Channel
from p2pnet.identity import Identity
from p2pnet.network.libp2p.protobuf import field, fields_of

PROTOCOL = "/noise"
NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
SIGNED_PREFIX = b"noise-libp2p-static-key:"
KEY_BYTES = 32
TAG_BYTES = 16
MAX_PLAIN_BYTES = 0xFFFF - TAG_BYTES

_IDENTITY_KEY, _IDENTITY_SIGNATURE = 1, 2


class Cipher:
    """One direction: a key, and how often it was used."""

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._count = 0

    def seal(self, plain: bytes, also: bytes = b"") -> bytes:
        return self._cipher.encrypt(self._nonce(), plain, also)

    def open(self, sealed: bytes, also: bytes = b"") -> bytes:
        return self._cipher.decrypt(self._nonce(), sealed, also)

    def _nonce(self) -> bytes:
        self._count += 1
        return bytes(4) + (self._count - 1).to_bytes(8, "little")


class Handshake:
    """Noise's symmetric state, and our keys in it."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._hash = self._chaining_key = NAME  # of 32 bytes, so it is its own hash
        self._cipher: Cipher | None = None
        self._mix_hash(b"")  # the prologue
        self._static = X25519PrivateKey.generate()
        self._ephemeral = X25519PrivateKey.generate()

    async def run(self, channel: Channel, is_initiator: bool) -> Noise:
        """Three messages: e; e, ee, s, es; s, se."""
        if is_initiator:
            await send_frame(channel, self._send_ephemeral() + self._seal(b""))
            message = await read_frame(channel)
            their_ephemeral = self._take_ephemeral(message[:KEY_BYTES])
            self._mix_key(self._ephemeral, their_ephemeral)
            peer_id = self._take_static(message[KEY_BYTES:])
            await send_frame(channel, self._send_static(their_ephemeral))
        else:
            message = await read_frame(channel)
            their_ephemeral = self._take_ephemeral(message[:KEY_BYTES])
            self._open(message[KEY_BYTES:])
            message = self._send_ephemeral()
            self._mix_key(self._ephemeral, their_ephemeral)
            await send_frame(channel, message + self._send_static(their_ephemeral))
            peer_id = self._take_static(await read_frame(channel))
        first, second = map(Cipher, self._derive(b""))
        sending, receiving = (first, second) if is_initiator else (second, first)
        return Noise(channel, peer_id, sending, receiving)

    def _send_ephemeral(self) -> bytes:
        public = self._ephemeral.public_key().public_bytes_raw()
        self._mix_hash(public)
        return public

    def _take_ephemeral(self, public: bytes) -> bytes:
        self._mix_hash(public)
        return public

    def _send_static(self, their_ephemeral: bytes) -> bytes:
        """Our static key, sealed, and our identity, which signs it."""
        static = self._static.public_key().public_bytes_raw()
        sealed = self._seal(static)
        self._mix_key(self._static, their_ephemeral)
        return sealed + self._seal(identity_payload(self._identity, static))

    def _take_static(self, sealed: bytes) -> str:
        """The peer id that has signed their static key."""
        static = self._open(sealed[: KEY_BYTES + TAG_BYTES])
        self._mix_key(self._ephemeral, static)
        return peer_id_in(self._open(sealed[KEY_BYTES + TAG_BYTES :]), static)

    def _seal(self, plain: bytes) -> bytes:
        sealed = self._cipher.seal(plain, self._hash) if self._cipher else plain
        self._mix_hash(sealed)
        return sealed

    def _open(self, sealed: bytes) -> bytes:
        plain = self._cipher.open(sealed, self._hash) if self._cipher else sealed
        self._mix_hash(sealed)
        return plain

    def _mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def _mix_key(self, ours: X25519PrivateKey, theirs: bytes) -> None:
        self._chaining_key, key = self._derive(ours.exchange(X25519PublicKey.from_public_bytes(theirs)))
        self._cipher = Cipher(key)

    def _derive(self, material: bytes) -> tuple[bytes, bytes]:
        secret = hmac.digest(self._chaining_key, material, "sha256")
        first = hmac.digest(secret, b"\x01", "sha256")
        return first, hmac.digest(secret, first + b"\x02", "sha256")


class Noise:
    """A secured connection; `peer_id` is who is at its other end."""

    def __init__(self, channel: Channel, peer_id: str, sending: Cipher, receiving: Cipher) -> None:
        self.peer_id = peer_id
        self._channel = channel
        self._sending = sending
        self._receiving = receiving
        self._unread = bytearray()
        self._writing = asyncio.Lock()

    async def readexactly(self, count: int) -> bytes:
        while len(self._unread) < count:
            self._unread += self._receiving.open(await read_frame(self._channel))
        data = bytes(self._unread[:count])
        del self._unread[:count]
        return data

    async def write(self, data: bytes) -> None:
        async with self._writing:
            for start in range(0, len(data), MAX_PLAIN_BYTES):
                await send_frame(self._channel, self._sending.seal(data[start : start + MAX_PLAIN_BYTES]))


async def send_frame(channel: Channel, message: bytes) -> None:
    await channel.write(len(message).to_bytes(2, "big") + message)


async def read_frame(channel: Channel) -> bytes:
    return await channel.readexactly(int.from_bytes(await channel.readexactly(2), "big"))


def identity_payload(identity: Identity, static: bytes) -> bytes:
    """Who we are, signed over the static key of this connection."""
    key = Ed25519PrivateKey.from_private_bytes(identity.to_bytes()[4:36])
    return field(_IDENTITY_KEY, public_key_message(identity)) + field(
        _IDENTITY_SIGNATURE, key.sign(SIGNED_PREFIX + static)
    )


def public_key_message(identity: Identity) -> bytes:
    """libp2p's PublicKey protobuf: what an Ed25519 peer id holds behind its multihash prefix."""
    return bytes(base58.b58decode(identity.peer_id)[2:])


def peer_id_in(payload: bytes, static: bytes) -> str:
    """The peer id of an identity payload. Raises InvalidSignature when it did not sign the static key."""
    fields = fields_of(payload)
    key, signature = fields[_IDENTITY_KEY], fields[_IDENTITY_SIGNATURE]
    assert isinstance(key, bytes) and isinstance(signature, bytes)
    Ed25519PublicKey.from_public_bytes(key[-KEY_BYTES:]).verify(signature, SIGNED_PREFIX + static)
    return str(base58.b58encode(bytes([0, len(key)]) + key).decode())
