"""Slows circuits down to what their relay gives: so much to one group of addresses, and so much to all.

Knows nothing of circuits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from p2pnet.rate_limit import RateLimit

ALL = "all"


class Throttle:
    """Rates are bytes per second. What ten seconds give may be taken at once: see `rate_limit`."""

    def __init__(
        self,
        bytes_per_s: int,
        bytes_per_s_of_a_group: int,
        now_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._of_all = RateLimit(60 * bytes_per_s)
        self._of_a_group = RateLimit(60 * bytes_per_s_of_a_group)
        self._now_s = now_s
        self._pause = pause

    async def take(self, group: str, amount: int) -> None:
        """So many bytes have come for a circuit of this group. Waits until they may go on."""
        now_s = self._now_s()
        self._of_a_group.spend(group, now_s, amount)
        if (alone_s := self._of_a_group.retry_after_s(group, now_s)) > 0:
            await self._pause(alone_s)
        # Only then, so that whoever is held back takes nothing from the others meanwhile.
        now_s = self._now_s()
        self._of_all.spend(ALL, now_s, amount)
        if (together_s := self._of_all.retry_after_s(ALL, now_s)) > 0:
            await self._pause(together_s)
