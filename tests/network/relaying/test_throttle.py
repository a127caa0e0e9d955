"""How long bytes wait, by whose they are."""

from __future__ import annotations

import pytest

from p2pnet.network.relaying.throttle import Throttle
from p2pnet.rate_limit import BURST_S

RATE, RATE_OF_ALL = 1000, 3000
AT_ONCE = RATE * BURST_S


class Site:
    """A throttle and its clock: whoever is told to wait, waits."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.throttle = Throttle(RATE_OF_ALL, RATE, lambda: self.now_s, self.pause)

    async def pause(self, seconds: float) -> None:
        self.now_s += seconds

    async def takes(self, group: str, amount: float) -> float:
        """How long that took."""
        began_s = self.now_s
        await self.throttle.take(group, int(amount))
        return self.now_s - began_s


async def test_what_ten_seconds_give_is_had_at_once_and_then_the_rate() -> None:
    site = Site()
    assert await site.takes("a", AT_ONCE) == pytest.approx(0, abs=0.01)
    assert await site.takes("a", 500) == pytest.approx(0.5, abs=0.01)
    assert await site.takes("a", 2000) == pytest.approx(2, abs=0.01)


async def test_one_does_not_wait_for_another() -> None:
    site = Site()
    await site.takes("a", 2 * AT_ONCE)
    assert await site.takes("b", AT_ONCE) == pytest.approx(0, abs=0.01)


async def test_all_together_have_a_rate() -> None:
    site = Site()
    for group in "abc":
        assert await site.takes(group, AT_ONCE) == pytest.approx(0, abs=0.01)
    assert await site.takes("d", 3000) == pytest.approx(1, abs=0.01)
