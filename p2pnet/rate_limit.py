"""Limits how often each of many strangers may ask.

The generic cell rate algorithm (ITU-T I.371): a bucket of tokens that keeps one number for each stranger, the time at
which it would be full again. Knows nothing of who they are, and keeps no clock.
"""

from __future__ import annotations

from collections import OrderedDict

BURST_S = 10.0
"""What may be asked in this time may be asked at once: a gateway's requests come in bursts. So in one minute there may
be a sixth more than the limit."""

MAX_REMEMBERED = 4096
"""Of strangers that have asked lately. An identity costs nothing: who is forgotten early could as well have come with
a new one."""


class RateLimit:
    """Times are seconds on one monotonic clock."""

    def __init__(self, per_minute: float) -> None:
        self._interval_s = 60.0 / per_minute
        self._tolerance_s = max(0.0, BURST_S - self._interval_s)
        self._full_again_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_again_s)

    def is_spent(self, who: str, now_s: float) -> bool:
        """Whether they have to wait before they ask again."""
        return self._full_again_s.get(who, now_s) - now_s > self._tolerance_s

    def spend(self, who: str, now_s: float, amount: float = 1.0) -> None:
        """They have asked, or taken so much at once: that may be more than there was, and is waited for later."""
        self._full_again_s[who] = max(self._full_again_s.get(who, now_s), now_s) + amount * self._interval_s
        self._full_again_s.move_to_end(who)
        self._forget(now_s)

    def retry_after_s(self, who: str, now_s: float) -> float:
        """How long they have to wait before they ask again."""
        return max(0.0, self._full_again_s.get(who, now_s) - now_s - self._tolerance_s)

    def _forget(self, now_s: float) -> None:
        """Those whose bucket is full again, as far as they come first, and the oldest when there are too many."""
        while self._full_again_s:
            full_again_s = next(iter(self._full_again_s.values()))
            if full_again_s > now_s and len(self._full_again_s) <= MAX_REMEMBERED:
                return
            self._full_again_s.popitem(last=False)
