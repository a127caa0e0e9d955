"""Has a volunteer vouch for this gateway, in what it signs: who serves it has standing where the volunteer is known."""

from __future__ import annotations

from p2pnet.identity import Identity
from p2pnet.network.interface import Clock
from p2pnet.receipts.statement import seal_statement
from p2pnet.receipts.vouch import VOUCH_LIFETIME_MS, Vouch


class Voucher:
    """With the identity of the volunteer's worker. A vouch is signed anew when it has half its time left."""

    def __init__(self, volunteer: Identity, gateway: str, now_ms: Clock) -> None:
        self._volunteer = volunteer
        self._gateway = gateway
        self._now_ms = now_ms
        self._expires_ms = 0
        self._sealed = b""

    def sealed(self) -> bytes:
        now_ms = self._now_ms()
        if self._expires_ms - now_ms < VOUCH_LIFETIME_MS // 2:
            self._expires_ms = now_ms + VOUCH_LIFETIME_MS
            vouch = Vouch(self._volunteer.peer_id, self._gateway, self._expires_ms)
            self._sealed = seal_statement(vouch, self._volunteer)
        return self._sealed
