"""An event loop whose time is simulated: when nobody has anything to do, it is at once as late as somebody waits for.

What runs in threads runs here at once, in place, so that a run depends on nothing but its seed.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Sockets are never looked at."""

    def __init__(self) -> None:
        self._simulated_s = 0.0
        super().__init__(_Skipping(self._pass))

    def time(self) -> float:
        return self._simulated_s

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _pass(self, seconds: float) -> None:
        self._simulated_s += seconds


class _Skipping(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Waits for nothing: the time that the loop would wait has passed."""

    def __init__(self, pass_s: Callable[[float], None]) -> None:
        super().__init__()
        self._pass_s = pass_s

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nobody waits for anything: the simulation would stand still for ever")
        self._pass_s(max(0.0, timeout))
        return []
