"""Hashes what is signed of a request and of its answer. Pure; docs/protocol.md has the bytes and test vectors."""

from __future__ import annotations

from hashlib import sha256
from struct import pack

from p2pnet.messages import TextDelta

HASH_BYTES = 32


def request_hash(body: bytes) -> bytes:
    """SHA-256 of the body of a request's frame as it was sent: whoever reads it needs to know none of its fields."""
    return sha256(body).digest()


class AnswerHash:
    """Follows the deltas of one answer, or of several. The echo of a prompt is no part of them."""

    def __init__(self, choices: int) -> None:
        self._ids = [sha256() for _ in range(choices)]
        self._texts = [sha256() for _ in range(choices)]
        self.tokens = 0
        """As far as is known: ids where they are named, else as the deltas say, at least one for each that says
        anything."""
        self.text_bytes = 0
        """Of all answers together, in UTF-8."""

    def note(self, delta: TextDelta) -> None:
        if delta.is_prompt:
            return
        ids, text = delta.token_ids, delta.text.encode()
        self._ids[delta.choice].update(pack(f">{len(ids)}I", *ids))
        self._texts[delta.choice].update(text)
        self.tokens += len(ids) or delta.tokens or bool(text or delta.tool_calls)
        self.text_bytes += len(text)

    @property
    def ids_hash(self) -> bytes:
        """Of each answer SHA-256 over its ids, 4 bytes each, big-endian; then SHA-256 over these hashes in order."""
        return sha256(b"".join(each.digest() for each in self._ids)).digest()

    @property
    def text_hash(self) -> bytes:
        """The same over the answers' texts in UTF-8."""
        return sha256(b"".join(each.digest() for each in self._texts)).digest()


def text_hash(*texts: bytes) -> bytes:
    """What `AnswerHash.text_hash` is for answers with these texts."""
    return sha256(b"".join(sha256(text).digest() for text in texts)).digest()
