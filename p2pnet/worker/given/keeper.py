"""Keeps what gateways sign for, in the background: a thread of its own writes to the file, at most once a second.

Where the file cannot be written, answers are served all the same, and the log says so once.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from p2pnet.flow.background import Background
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.worker.given.file import Signed, write

logger = logging.getLogger(__name__)

WRITE_INTERVAL_S = 1.0
"""What a worker that is killed has lost of what was signed."""

MAX_UNWRITTEN = 10_000
"""Acknowledgements that wait for a disk that does not get on."""


def week_of(unix_s: float) -> str:
    """`2026-W48` (ISO 8601), in UTC."""
    year, week, _ = datetime.fromtimestamp(unix_s, UTC).isocalendar()
    return f"{year}-W{week:02}"


class GivenKeeper:
    """Use as an async context manager: leaving it writes the rest. `keep` is a `streams.signing.Keep`."""

    def __init__(
        self, path: Path, write_interval_s: float = WRITE_INTERVAL_S, unix_s: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._interval_s = write_interval_s
        self._unix_s = unix_s
        self._unwritten: deque[Signed] = deque(maxlen=MAX_UNWRITTEN)
        self._has_news = asyncio.Event()
        self._is_failing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="given")
        self._background = Background()

    async def __aenter__(self) -> Self:
        self._background.keep("keeping what gateways sign for", self._keep_writing)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._background.stop()
        await self.flush()
        self._thread.shutdown()

    def keep(self, said: Acknowledgement, sealed: bytes) -> None:
        """Of what a gateway calls a wrong receipt nothing is kept: nobody has to be shown that."""
        if said.verdict != "received":
            logger.warning("the gateway %s says that a receipt of ours is wrong", said.gateway)
            return
        week = week_of(self._unix_s())
        self._unwritten.append(Signed(week, said.worker, said.model, said.gateway, said.tokens, sealed))
        self._has_news.set()

    async def flush(self) -> None:
        """Write now what is not written yet. What cannot be written is lost: it must not pile up."""
        self._has_news.clear()
        signed = tuple(self._unwritten)
        self._unwritten.clear()
        if not signed:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, write, self._path, signed)
        except (sqlite3.Error, OSError) as error:
            if not self._is_failing:
                logger.warning("what gateways sign for cannot be kept in %s (%s): move it aside", self._path, error)
            self._is_failing = True
        else:
            self._is_failing = False

    async def _keep_writing(self) -> None:
        while True:
            await self._has_news.wait()
            await asyncio.sleep(self._interval_s)
            await self.flush()
