"""Counts what a worker has given since it was started, and how fast it gives now, for its owner.

Knows nothing of terminals; its clock is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from p2pnet.messages import Finished
from p2pnet.worker.observability.observer import Observer

WINDOW_S = 10.0
"""Over which the tokens per second are counted: long enough to be read, short enough to be now."""


@dataclass(frozen=True)
class Given:
    """How many requests were answered and tokens sent in all, and tokens per second now."""

    requests: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0


class Tally(Observer):
    """Counts tokens as they are sent. `now_s` is a monotonic clock."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._began_s = now_s()
        self._requests = 0
        self._tokens = 0
        self._lately: deque[tuple[float, int]] = deque()
        self._lately_tokens = 0

    @property
    def given(self) -> Given:
        self._forget()
        window_s = min(WINDOW_S, max(1.0, self._now_s() - self._began_s))
        return Given(self._requests, self._tokens, self._lately_tokens / window_s)

    def first_token(self, model: str, tokens: int, waited_s: float) -> None:
        self._add(tokens)

    def more_tokens(self, model: str, tokens: int, gap_s: float) -> None:
        self._add(tokens)

    def finished(self, model: str, finished: Finished, duration_s: float) -> None:
        self._requests += 1

    def _add(self, tokens: int) -> None:
        self._tokens += tokens
        self._lately_tokens += tokens
        now_s = self._now_s()
        if self._lately and self._lately[-1][0] == now_s // 1:
            self._lately[-1] = (now_s // 1, self._lately[-1][1] + tokens)
        else:
            self._forget()
            self._lately.append((now_s // 1, tokens))

    def _forget(self) -> None:
        """Seconds that have left the window: at most one entry for each is kept, however many tokens come."""
        while self._lately and self._lately[0][0] <= self._now_s() - WINDOW_S:
            self._lately_tokens -= self._lately.popleft()[1]
