"""Reads a generation ahead of its writer, so that what already waits goes out in one write.

Owns the generation's task: its order, its bound, its cancellation. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self

from gateway.patience import Patience
from gateway.service import GenerationEvent
from p2pnet.errors import PeerLost


class ClientGone(Exception):
    """The client went away; the generation has been cancelled."""


class EventPump:
    """One reader task for one generation. Use as an async context manager: leaving it closes the generation.

    At most `capacity` events wait; then the generation is not asked for more until they are taken.
    """

    def __init__(
        self, events: AsyncGenerator[GenerationEvent, None], capacity: int, silence_s: float | None = None
    ) -> None:
        self._source = events
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self._waiting: list[GenerationEvent] = []
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._silence = None if silence_s is None else Patience(silence_s, self._wake_reader)
        self._has_ended = False
        self._is_abandoned = False
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = self._loop.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._silence is not None:
            self._silence.close()
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Cancel the generation at once; `take` raises ClientGone from now on."""
        self._is_abandoned = True
        if self._task is not None:
            self._task.cancel()
        self._wake_reader()

    async def take(self) -> list[GenerationEvent]:
        """All events that wait, in order; waits for the first one. An empty list says that `silence_s` went by.

        Raises ClientGone after `abandon`. Once everything before was taken, raises the generation's own error, or
        PeerLost where it ended without Finished.
        """
        if not self._waiting and not self._has_ended and not self._is_abandoned:
            await self._wait()
        if self._is_abandoned:
            raise ClientGone
        if not self._waiting and self._has_ended:
            raise self._error or PeerLost("the generation ended before it was finished")
        taken, self._waiting = self._waiting, []
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return taken

    async def _wait(self) -> None:
        self._reader = self._loop.create_future()
        if self._silence is None:
            await self._reader
            return
        self._silence.begin()
        await self._reader
        self._silence.end()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _run(self) -> None:
        try:
            async with aclosing(self._source) as events:
                async for event in events:
                    self._waiting.append(event)
                    self._wake_reader()
                    if len(self._waiting) >= self._capacity:
                        self._room = self._loop.create_future()
                        await self._room
        except Exception as error:  # it belongs to whoever takes the events
            self._error = error
        finally:
            self._has_ended = True
            self._wake_reader()
