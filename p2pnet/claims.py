"""The key with which a volunteer claims its standing at one gateway: what is signed, the key as text, every check.

A client sends it where it would send an API key, so whoever reads it can use it. That is why it names the one gateway
that it is for: what a gateway has been shown is worth nothing at another. Pure; knows nothing of what standing buys.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import ClassVar

import msgspec

from p2pnet.errors import ClaimRefused, ReceiptRefused
from p2pnet.identity import Identity
from p2pnet.receipts.statement import STATEMENT_VERSION, open_statement, seal_statement
from p2pnet.records import MAX_CLOCK_SKEW_MS, Milliseconds, PeerId

CLAIM_DOMAIN = "p2pnet/claim/1"

CLAIM_PREFIX = "sk-p2pnet-standing-"
"""What a key begins with, so that a gateway knows it from one of its own, and scanners of code from other text."""

JOINT = "~"
"""Between a gateway's own key and a claim, where both are sent as one: neither has it, and RFC 6750 allows it."""

MAX_CLAIM_CHARS = 448
"""Of a key as text, which has some 350: it goes into a header, with a gateway's own key before it."""

MAX_CLAIM_LIFETIME_MS = 90 * 86_400_000
"""From a claim's making to its end. A key that was lost is worth nothing after a season, whoever has forgotten it."""

MAX_OPENED = 4096
"""Claims that are remembered to hold, 4 MB of them: a signature takes 0.1 ms, and a client sends its key with
every request."""


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whoever shows this to `gateway` asks on behalf of `peer`, the volunteer's worker, who signs it. The newest that a
    gateway has seen of a peer is the one that holds. Times are Unix milliseconds by the volunteer's clock."""

    domain: ClassVar[str] = CLAIM_DOMAIN

    peer: PeerId
    gateway: PeerId
    issued_ms: Milliseconds
    expires_ms: Milliseconds
    version: int = STATEMENT_VERSION

    @property
    def signer(self) -> str:
        return self.peer


def claim_key(identity: Identity, gateway: str, issued_ms: int, expires_ms: int) -> str:
    """The key as text, for a client's settings."""
    sealed = seal_statement(Claim(identity.peer_id, gateway, issued_ms, expires_ms), identity)
    return CLAIM_PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def split_key(given: str) -> tuple[str | None, str | None]:
    """What a client has sent as its key: a gateway's own one, and a claim. Either may be missing."""
    own, _, last = given.rpartition(JOINT)
    return (own or None, last) if last.startswith(CLAIM_PREFIX) else (given, None)


def read_claim(key: str, gateway: str, now_ms: int) -> Claim:
    """The claim of a key that was shown to this gateway. Raises ClaimRefused, which says what to do."""
    again = f"Make one with `p2pnet keys claim {gateway}`."
    try:
        claim = _opened(key) if len(key) <= MAX_CLAIM_CHARS else None
    except ReceiptRefused as error:
        raise ClaimRefused(f"This key claims a volunteer's standing and does not hold: {error}. {again}") from error
    if claim is None:
        raise ClaimRefused(f"This key is longer than any that a volunteer signs. {again}")
    if claim.gateway != gateway:
        raise ClaimRefused(f"This key is for the gateway {claim.gateway}, and this is another. {again}")
    if claim.expires_ms - claim.issued_ms > MAX_CLAIM_LIFETIME_MS:
        days = MAX_CLAIM_LIFETIME_MS // 86_400_000
        raise ClaimRefused(f"This key is good for longer than {days} days, which none may be. {again}")
    if claim.issued_ms > now_ms + MAX_CLOCK_SKEW_MS:
        raise ClaimRefused("This key was made in the future, by this gateway's clock. Set the clock right, or wait.")
    if claim.expires_ms <= now_ms:
        raise ClaimRefused(f"This key of a volunteer has expired. {again}")
    return claim


@lru_cache(MAX_OPENED)
def _opened(key: str) -> Claim:
    """Raises ReceiptRefused."""
    text = key.removeprefix(CLAIM_PREFIX)
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise ReceiptRefused("it is cut, or no key") from error
    return open_statement(sealed, Claim)
