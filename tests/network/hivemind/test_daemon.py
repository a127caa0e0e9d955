"""What p2pd says is read to its end: it would wait for room otherwise, and serve nobody meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

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
