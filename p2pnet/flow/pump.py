"""Reads an asynchronous generator ahead of its consumer, so that everything already waiting is taken at once.

Owns the generator's task: its order, its bound, its cancellation. Knows nothing of what flows through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Generic, Self, TypeVar

from p2pnet.flow.stall_timer import StallTimer

T = TypeVar("T")


class Ended(Exception):
    """The generator has ended, and everything it gave has been taken."""


class Abandoned(Exception):
    """Nobody wants the rest any more; the generator has been cancelled."""


class Pump(Generic[T]):
    """One reader task for one generator. Use as an async context manager; leaving it cancels and closes the generator.

    At most `capacity` items wait; then the generator is not asked for more until they are taken.
    """

    def __init__(
        self,
        source: AsyncGenerator[T, None],
        capacity: int,
        silence_s: float | None = None,
        at_end: Callable[[], Exception] = Ended,
    ) -> None:
        self._source = source
        self._capacity = capacity
        self._silence = None if silence_s is None else StallTimer(silence_s, self._wake_reader)
        self._at_end = at_end
        self._loop = asyncio.get_running_loop()
        self._waiting: list[T] = []
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
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
        """Cancel the generator at once; `take` raises Abandoned from now on."""
        self._is_abandoned = True
        if self._task is not None:
            self._task.cancel()
        self._wake_reader()

    async def take(self) -> list[T]:
        """All items that wait, in order; waits for the first one. An empty list says that `silence_s` went by.

        Raises Abandoned after `abandon`. Once everything before was taken, raises the generator's own error, or what
        `at_end` makes.
        """
        if not self._waiting and not self._has_ended and not self._is_abandoned:
            await self._wait()
        if self._is_abandoned:
            raise Abandoned
        if not self._waiting and self._has_ended:
            raise self._error or self._at_end()
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
            async with aclosing(self._source) as items:
                async for item in items:
                    self._waiting.append(item)
                    self._wake_reader()
                    if len(self._waiting) >= self._capacity:
                        self._room = self._loop.create_future()
                        await self._room
        except Exception as error:  # it belongs to whoever takes the items
            self._error = error
        finally:
            self._has_ended = True
            self._wake_reader()
