"""What goes on all the time in the half of a gateway behind HTTP goes on whatever happens to it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gateway.membership.table import PeerTable
from gateway.serving import Serving
from p2pnet.directory import Directory, validator
from p2pnet.network.memory import MemoryWorld
from tests.stories import ManualClock, peer

SOON_S = 10.0
"""Two looks at all answers are a second apart where the first one fails."""


class Broken:
    """Stands for an attempt that nobody can look at, once."""

    def __init__(self) -> None:
        self.looked = 0
        self.is_looked_at_again = asyncio.Event()
        self.judged_s = 0.0

    @property
    def waits_since_s(self) -> None:
        self.looked += 1
        if self.looked == 1:
            raise KeyError("bug")
        self.is_looked_at_again.set()


async def test_a_look_at_all_answers_that_fails_is_logged_and_not_the_last_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    network = MemoryWorld(validator(clock)).join(peer("gateway").peer_id)
    broken = Broken()
    async with Serving(network, PeerTable(Directory(network, clock))) as serving:
        serving.watch.add(cast(Any, broken))
        async with asyncio.timeout(SOON_S):
            await broken.is_looked_at_again.wait()
    assert "watching answers was interrupted; it begins again" in caplog.messages
