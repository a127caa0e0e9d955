"""A volunteer's word for a gateway: what it signs counts as the volunteer's own. Pure.

So who has served that gateway has standing wherever the volunteer is known: see `gateway.standing`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from p2pnet.receipts.statement import STATEMENT_VERSION
from p2pnet.records import Milliseconds, PeerId

VOUCH_DOMAIN = "p2pnet/vouch/1"

MAX_VOUCH_BYTES = 512
"""Of a sealed vouch, which has some 230: it travels in every acknowledgement of its gateway."""

VOUCH_LIFETIME_MS = 90 * 86_400_000
"""A gateway that is given up, or whose key is lost, speaks for its volunteer for no longer."""


class Vouch(msgspec.Struct, frozen=True, omit_defaults=True):
    """`peer` is the volunteer's worker, who signs; `gateway` the peer id that it speaks for."""

    domain: ClassVar[str] = VOUCH_DOMAIN

    peer: PeerId
    gateway: PeerId
    expires_ms: Milliseconds
    version: int = STATEMENT_VERSION

    @property
    def signer(self) -> str:
        return self.peer
