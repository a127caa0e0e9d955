"""Decides when a peer behind NAT that has lost its relay has its p2pd started again, which takes a new reservation.

p2pd itself does not ask a relay again for an hour after it has lost it: a relay that was started again, or has parted
from it, would leave the peer out of reach for so long.
"""

from __future__ import annotations

FIRST_WAIT_S = 5.0
"""A relay that is started again is back within two seconds, and is met again within five."""

MAX_WAIT_S = 600.0
"""The wait doubles each time that a new p2pd was not given a reservation: the relay may refuse, or be another one."""


class LostRelay:
    """Told now and then how it is."""

    def __init__(self) -> None:
        self._wait_s = FIRST_WAIT_S
        self._since_s: float | None = None
        self._has_had_one = False
        self.is_lost = False
        """Whether it was last told that there was a reservation, and is none now."""

    def is_over(self, has_circuit: bool, is_connected: bool, now_s: float) -> bool:
        """Whether p2pd is to be started again now. Who `is_connected` to no relay has none to ask; and where there
        never was a reservation, nothing was lost."""
        if has_circuit:
            self._has_had_one, self._since_s, self._wait_s = True, None, FIRST_WAIT_S
        self.is_lost = self._has_had_one and not has_circuit
        if not (self.is_lost and is_connected):
            return False
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s < self._wait_s:
            return False
        self._since_s, self._wait_s = None, min(2 * self._wait_s, MAX_WAIT_S)
        return True
