"""The clock of a simulation: what happens next, and when."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Events:
    """Discrete events on one heap. Of two at the same moment the one comes first that was planned first."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, in_s: float, act: Callable[..., None], *arguments: Any) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (self.now_s + in_s, self._serial, act, arguments))

    def run_next(self) -> None:
        self.now_s, _, act, arguments = heapq.heappop(self._heap)
        act(*arguments)
