"""Loops that go on for ever: nothing but their owner ends them."""

from __future__ import annotations

import asyncio

import pytest

from p2pnet.flow.background import LOOP_PAUSE_S, Background
from tests.stories import settle


class Site:
    """One owner of loops, whose pauses take no time and are noted."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []
        self.begun: list[str] = []
        self.background = Background(self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        await asyncio.sleep(0)

    async def fails(self) -> None:
        self.begun.append("fails")
        raise KeyError("bug")

    async def ends(self) -> None:
        self.begun.append("ends")

    async def goes_on(self) -> None:
        self.begun.append("goes on")
        await asyncio.Event().wait()


@pytest.mark.parametrize("way", ["fails", "ends"])
async def test_a_loop_that_ends_begins_again_after_a_pause(way: str) -> None:
    site = Site()
    site.background.keep("this loop", getattr(site, way))
    await settle(lambda: len(site.begun) == 3)
    await site.background.stop()
    assert set(site.pauses_s) == {LOOP_PAUSE_S} and len(site.pauses_s) >= len(site.begun) - 1


async def test_what_it_raises_is_logged_with_what_it_was_each_time(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.background.keep("looking after this", site.fails)
    await settle(lambda: len(caplog.records) == 2)
    await site.background.stop()
    assert caplog.records[0].getMessage() == "looking after this was interrupted; it begins again"
    assert caplog.records[0].exc_info is not None


async def test_one_that_fails_is_not_another_s_end() -> None:
    site = Site()
    site.background.keep("the first", site.goes_on)
    site.background.keep("the second", site.fails)
    await settle(lambda: site.begun.count("fails") == 3)
    assert site.begun.count("goes on") == 1
    await site.background.stop()


async def test_nothing_is_left_when_it_has_stopped() -> None:
    site = Site()
    for work in (site.goes_on, site.fails, site.ends):
        site.background.keep("a loop", work)
    await settle(lambda: len(site.begun) > 5)
    await site.background.stop()
    await site.background.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}
