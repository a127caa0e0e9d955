"""The secret that all members of a swarm have: it blinds the names of keys, and seals what only members may read.

Pure but for the nonce. HKDF: RFC 5869; HMAC: RFC 2104; ChaCha20-Poly1305: RFC 8439.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16

BLINDING_INFO = b"p2pnet/swarm/blinding/1"
SEALING_INFO = b"p2pnet/swarm/sealing/1"


class SwarmSecret:
    """What can be done with a swarm's secret."""

    def __init__(self, secret: bytes) -> None:
        self._blinding = _derived(secret, BLINDING_INFO)
        self._sealing = ChaCha20Poly1305(_derived(secret, SEALING_INFO))

    def blinded(self, key: str) -> bytes:
        """What stands for a key's name: who lacks the secret can neither tell it nor find it again."""
        return hmac.digest(self._blinding, key.encode(), hashlib.sha256)

    def seal(self, plain: bytes, context: str, nonce: bytes | None = None) -> bytes:
        """What opens only for who has the secret and names the same context: a nonce, which is random unless it is
        given, then what is sealed, 28 bytes more than `plain` in all."""
        nonce = nonce or os.urandom(NONCE_BYTES)
        return nonce + self._sealing.encrypt(nonce, plain, context.encode())

    def open(self, box: bytes, context: str) -> bytes | None:
        """What was sealed for this context; None for anything else."""
        if len(box) < NONCE_BYTES + TAG_BYTES:
            return None
        try:
            return self._sealing.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], context.encode())
        except InvalidTag:
            return None


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), SECRET_BYTES, salt=None, info=info).derive(secret)
