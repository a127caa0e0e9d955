"""What p2pd says is read to its end: it would wait for room otherwise, and serve nobody meanwhile."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.identity import Identity
from p2pnet.network.hivemind.daemon import Daemon
from tests.stories import settle


class Process:
    """A process of which there is only what it says."""

    def __init__(self, limit: int) -> None:
        self.stdout = asyncio.StreamReader(limit)


async def test_an_overlong_line_is_passed_over_and_the_next_one_is_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    process = Process(limit=16)
    daemon = Daemon(cast(Any, process), cast(Any, None))
    process.stdout.feed_data(b"one\n" + b"x" * 40 + b"\nthree\n")
    process.stdout.feed_eof()
    await settle(daemon._log_task.done)
    said = [message for message in caplog.messages if message.startswith("p2pd: ")]
    assert said == ["p2pd: one", "p2pd: an overlong line", "p2pd: three"]


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux schedules so")
@pytest.mark.parametrize("is_client", [True, False], ids=["a gateway's", "a worker's"])
async def test_a_gateways_p2pd_interrupts_nobody_who_wakes_it(tmp_path: Path, is_client: bool) -> None:
    """Which is so for each of its threads; we ourselves are scheduled as before."""
    before = os.sched_getscheduler(0)
    config = NetworkConfig(tmp_path / "key", LOOPBACK_LISTEN, is_client=is_client)
    Identity.load_or_create(config.identity_file)
    daemon = await Daemon.start(config, LOOPBACK_LISTEN)
    try:
        policies = {os.sched_getscheduler(thread.id) for thread in psutil.Process(daemon.pid).threads()}
    finally:
        await daemon.stop()
    assert policies == {os.SCHED_BATCH if is_client else os.SCHED_OTHER}
    assert os.sched_getscheduler(0) == before
