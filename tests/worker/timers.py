"""Timers that go off when a test says so."""

from __future__ import annotations

from collections.abc import Callable


class ManualTimer:
    """One of ManualTimers."""

    def __init__(self, delay_s: float, act: Callable[[], object]) -> None:
        self.delay_s = delay_s
        self.act = act
        self.is_set = True

    def cancel(self) -> None:
        self.is_set = False


class ManualTimers:
    """In place of the event loop's `call_later`."""

    def __init__(self) -> None:
        self._all: list[ManualTimer] = []

    def call_later(self, delay_s: float, act: Callable[[], object]) -> ManualTimer:
        timer = ManualTimer(delay_s, act)
        self._all.append(timer)
        return timer

    @property
    def delays_s(self) -> list[float]:
        """Of those that would still go off."""
        return [timer.delay_s for timer in self._all if timer.is_set]

    def go_off(self) -> None:
        """The only one that is set does."""
        (timer,) = (timer for timer in self._all if timer.is_set)
        timer.is_set = False
        timer.act()
