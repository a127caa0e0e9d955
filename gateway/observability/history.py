"""Keeps the last requests with their routes, the models known so far and the flags that stand, over restarts.

Everything is answered from memory; a thread of its own writes to the file, at most once a second. Where the file cannot
be read or written, the history lasts as long as the process, and no request ever notices. Prompts and answers are in
none of it, nor are callers' names.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.observability.history_file import MAX_FILE_BYTES, Contents, HistoryFile, open_history
from gateway.observability.recent import MAX_REQUESTS, Given, Kept, Recent, RequestQuery, WorkerStatistics
from gateway.observability.reports import RequestReport
from gateway.peers.flags import Flag
from p2pnet.flow.background import Background

logger = logging.getLogger(__name__)

WRITE_INTERVAL_S = 1.0
"""What a gateway that is killed has lost of its history. One write takes some milliseconds of its thread."""

CALLER_LABEL_BYTES = 4
"""Tells a thousand callers apart."""


class History:
    """Make one with `open`; `note` is an Observer."""

    def __init__(self, file: _FileWriter | None, contents: Contents, max_requests: int) -> None:
        self._file = file
        self._recent = Recent(contents.requests, max_requests)
        self._models = contents.models
        self.flags = contents.flags
        """Workers that were flagged in an earlier run; oldest first."""
        self._label_key = secrets.token_bytes(16)

    @classmethod
    async def open(
        cls,
        path: Path | None,
        write_interval_s: float = WRITE_INTERVAL_S,
        max_requests: int = MAX_REQUESTS,
        max_bytes: int = MAX_FILE_BYTES,
        unix_s: Callable[[], float] = time.time,
    ) -> History:
        """With what the file says of earlier runs. Never fails: without a file, or a `path`, it keeps to memory."""
        nothing = Contents((), ())
        if path is None:
            return cls(None, nothing, max_requests)
        thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        try:
            file, contents = await asyncio.get_running_loop().run_in_executor(
                thread, open_history, path, unix_s(), max_requests, max_bytes
            )
        except (sqlite3.Error, OSError) as error:
            thread.shutdown()
            logger.warning("the history %s cannot be opened (%s): it is kept in memory only", path, error)
            return cls(None, nothing, max_requests)
        return cls(_FileWriter(file, thread, contents, write_interval_s, max_requests), contents, max_requests)

    @property
    def known_models(self) -> tuple[str, ...]:
        """Models that workers have announced, here or in an earlier run; oldest first."""
        return self._models

    def note(self, report: RequestReport) -> None:
        """A request is over."""
        kept = self._recent.note(dataclasses.replace(report, caller=self._label(report.caller)))
        if self._file is not None:
            self._file.add(kept)

    def note_models(self, models: Iterable[str]) -> None:
        """All models that are known now, oldest first. Costs little when they are those of the last time."""
        known = tuple(models)
        if known == self._models:
            return
        self._models = known
        if self._file is not None:
            self._file.set_models(known)

    def note_flags(self, flags: tuple[Flag, ...]) -> None:
        """All flags that stand now, oldest first."""
        if self._file is not None:
            self._file.set_flags(flags)

    def recent(self, query: RequestQuery) -> list[Kept]:
        """Newest first."""
        return self._recent.page(query)

    def measured(self, worker: str, since_unix_s: float) -> WorkerStatistics:
        """What the requests that were sent to this worker since then say of it."""
        return self._recent.measured(worker, since_unix_s)

    def given(self, worker: str) -> Given:
        """What this worker gave, of the requests that are kept."""
        return self._recent.given(worker)

    def has_served(self, worker: str) -> bool:
        """Whether any of these requests succeeded there."""
        return bool(self.measured(worker, float("-inf")).success_rate)

    async def flush(self) -> None:
        """Write now what is not written yet."""
        if self._file is not None:
            await self._file.write()

    async def close(self) -> None:
        """Write the rest and leave the file to others. The history may be read after that too."""
        file, self._file = self._file, None
        if file is not None:
            await file.close()

    def _label(self, caller: str) -> str:
        """Tells callers apart for as long as the process runs, and names nobody."""
        digest = hashlib.blake2b(caller.encode(errors="replace"), digest_size=CALLER_LABEL_BYTES, key=self._label_key)
        return digest.hexdigest()


class _FileWriter:
    """What is to be written, and the one thread that uses the file."""

    def __init__(
        self,
        file: HistoryFile,
        thread: ThreadPoolExecutor,
        contents: Contents,
        interval_s: float,
        max_requests: int,
    ) -> None:
        self._file = file
        self._thread = thread
        self._models = contents.models
        self._flags = contents.flags
        self._interval_s = interval_s
        self._unwritten: deque[Kept] = deque(maxlen=max_requests)
        self._has_news = asyncio.Event()
        self._is_failing = False
        self._background = Background()
        self._background.keep("writing the history", self._keep_writing)

    def add(self, kept: Kept) -> None:
        self._unwritten.append(kept)
        self._has_news.set()

    def set_models(self, models: tuple[str, ...]) -> None:
        self._models = models
        self._has_news.set()

    def set_flags(self, flags: tuple[Flag, ...]) -> None:
        self._flags = flags
        self._has_news.set()

    async def write(self) -> None:
        """What cannot be written is lost to the file: it must not pile up."""
        self._has_news.clear()
        requests = tuple(self._unwritten)
        self._unwritten.clear()
        try:
            await self._in_thread(self._file.write, requests, self._models, self._flags)
        except (sqlite3.Error, OSError) as error:
            if not self._is_failing:
                logger.warning("the history cannot be written (%s): requests are served all the same", error)
            self._is_failing = True
        else:
            self._is_failing = False

    async def close(self) -> None:
        await self._background.stop()
        await self.write()
        with contextlib.suppress(sqlite3.Error):  # what could not be written has been told
            await self._in_thread(self._file.close)
        self._thread.shutdown()

    async def _keep_writing(self) -> None:
        while True:
            await self._has_news.wait()
            await asyncio.sleep(self._interval_s)
            await self.write()

    async def _in_thread(self, call: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
