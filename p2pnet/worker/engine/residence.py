"""Loads something large when it is wanted, and unloads it when nobody has wanted it for a while.

Knows nothing of what it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from p2pnet.errors import WorkerFailed
from p2pnet.worker.engine.reclaim import reclaim_memory
from p2pnet.worker.engine.turns import in_own_thread

logger = logging.getLogger(__name__)

RETRY_S = 60.0
MAX_DOUBLINGS = 6
"""After an attempt to load that failed nobody tries again for a minute, then for two and so on, up to an hour: whoever
asks for a model could otherwise keep a worker reading a file that does not help."""


class Closable(Protocol):
    """What is held. Once it is closed, its memory is freed with the last reference to it."""

    async def close(self) -> None: ...


class Timer(Protocol):
    """What asyncio calls a TimerHandle."""

    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], object]], Timer]

T = TypeVar("T", bound=Closable)


def call_later(delay_s: float, act: Callable[[], object]) -> Timer:
    """Calls later in the running event loop."""
    return asyncio.get_running_loop().call_later(delay_s, act)


class Residence(Generic[T]):
    """Holds one T, called `name` in the log.

    All but `load`, which runs in a thread, happens in one event loop. Who uses it must not keep it beyond that: its
    memory would not be freed.
    """

    def __init__(
        self,
        name: str,
        resident: T,
        load: Callable[[], T],
        idle_s: float | None,
        call_later: CallLater = call_later,
    ) -> None:
        """`resident` is in memory already. `load` makes another one, or raises WorkerFailed. `idle_s` None is for ever.

        The time without users begins with the first use, or when `begin_idling` is called.
        """
        self._name = name
        self._resident: T | None = resident
        self._load = load
        self._idle_s = idle_s
        self._call_later = call_later
        self._users = 0
        self._change: asyncio.Task[None] | None = None
        """Loading or unloading, while that is under way."""
        self._idle_timer: Timer | None = None
        self._retry_timer: Timer | None = None
        self._failure: WorkerFailed | None = None
        self._failures = 0
        self._is_closed = False

    @property
    def resident(self) -> T | None:
        """What is in memory now: None also while it is being loaded."""
        return self._resident

    @property
    def has_just_failed(self) -> bool:
        """Whether it could not be loaded, and it is too early to try again."""
        return self._failure is not None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[T]:
        """Use it for as long as this context lasts, loaded if need be. Raises WorkerFailed when it cannot be loaded.

        However many wait, it is loaded once. Who stops waiting does not stop the loading: the others, or the next to
        come, have it sooner.
        """
        self._users += 1
        self._stop_idling()
        try:
            yield await self._present()
        finally:
            self._users -= 1
            self.begin_idling()

    def begin_idling(self) -> None:
        """Count the time without users from now on. Does nothing while there are any."""
        is_idle = self._resident is not None and not self._users and not self._is_closed
        if self._idle_s is not None and is_idle:
            self._stop_idling()
            self._idle_timer = self._call_later(self._idle_s, self._leave)

    async def close(self) -> None:
        """Close what is in memory, and load no more. Waits for loading that is under way, which nothing can stop."""
        self._is_closed = True
        self._stop_idling()
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        if self._change is not None:
            await asyncio.wait([self._change])
        resident, self._resident = self._resident, None
        if resident is not None:
            await resident.close()

    async def _present(self) -> T:
        while self._resident is None and self._failure is None and not self._is_closed:
            if self._change is None:
                self._change = asyncio.create_task(self._load_now())
            await asyncio.shield(self._change)
        if self._is_closed:
            raise WorkerFailed("the worker is stopping")
        if self._resident is None:
            raise WorkerFailed(str(self._failure))
        return self._resident

    def _leave(self) -> None:
        resident, self._resident, self._idle_timer = self._resident, None, None
        assert resident is not None and not self._users
        self._change = asyncio.create_task(self._unload_now(resident))

    async def _unload_now(self, resident: T) -> None:
        try:
            await resident.close()
            del resident  # the last reference: this frees it
            await asyncio.to_thread(reclaim_memory)
            logger.info("%s is unloaded: nobody asked for it for %g s", self._name, self._idle_s)
        finally:
            self._change = None

    async def _load_now(self) -> None:
        logger.info("loading %s again", self._name)
        try:
            self._resident = await in_own_thread(self._load)
            self._failures = 0
            logger.info("%s is loaded again", self._name)
        except WorkerFailed as error:
            self._note_failure(str(error))
            await asyncio.to_thread(reclaim_memory)
        finally:
            self._change = None
            self.begin_idling()  # those who waited may have gone

    def _note_failure(self, reason: str) -> None:
        self._failure = WorkerFailed(reason)
        wait_s = RETRY_S * 2 ** min(self._failures, MAX_DOUBLINGS)
        self._failures += 1
        if not self._is_closed:
            self._retry_timer = self._call_later(wait_s, self._forgive)
            logger.warning("%s is not offered for the next %g s", self._name, wait_s)

    def _forgive(self) -> None:
        self._retry_timer = self._failure = None

    def _stop_idling(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
