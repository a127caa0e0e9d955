"""Keeps the book of standing over restarts: a thread of its own writes it, now and then. Where the file cannot be read
or written, the book lasts as long as the process, and no request ever notices."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.standing.book import Book
from gateway.standing.file import BookFile, open_book
from p2pnet.flow.background import Background

logger = logging.getLogger(__name__)

WRITE_INTERVAL_S = 300.0
"""What a gateway that is killed has lost of its book, of which half counts after weeks. A full one is written within
30 ms, by a thread."""


class BookKeeper:
    """Make one with `open`."""

    def __init__(self, book: Book, file: BookFile | None, thread: ThreadPoolExecutor, interval_s: float) -> None:
        self.book = book
        self._file = file
        self._thread = thread
        self._interval_s = interval_s
        self._written = book.version
        self._is_failing = False
        self._background = Background()
        if file is not None:
            self._background.keep("writing what was given", self._keep_writing)

    @classmethod
    async def open(
        cls,
        path: Path | None,
        write_interval_s: float = WRITE_INTERVAL_S,
        unix_s: Callable[[], float] = time.time,
        label: Callable[[str], str] = lambda caller: caller,
    ) -> BookKeeper:
        """With what the file says of earlier runs. Never fails: without a file, or a `path`, it keeps to memory."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="standing")
        file, contents = None, None
        if path is not None:
            try:
                file, contents = await asyncio.get_running_loop().run_in_executor(thread, open_book, path, unix_s())
            except (sqlite3.Error, OSError) as error:
                logger.warning("what was given cannot be read from %s (%s): it is kept in memory only", path, error)
        return cls(Book(contents, unix_s, label), file, thread, write_interval_s)

    async def close(self) -> None:
        """Write the rest and leave the file to others."""
        await self._background.stop()
        if self._file is not None:
            await self.write()
            with contextlib.suppress(sqlite3.Error):  # what could not be written has been told
                await self._in_thread(self._file.close)
        self._thread.shutdown()

    async def write(self) -> None:
        """Write what has changed, if anything has."""
        version = self.book.version
        if self._file is None or version == self._written:
            return
        contents, file = self.book.contents(), self._file
        try:
            await self._in_thread(lambda: file.write(contents))
        except (sqlite3.Error, OSError) as error:
            if not self._is_failing:
                logger.warning("what was given cannot be written (%s): requests are served all the same", error)
            self._is_failing = True
        else:
            self._written, self._is_failing = version, False

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.write()

    async def _in_thread(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)
