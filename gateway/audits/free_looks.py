"""Looks that cost nobody anything: whoever goes on with an answer reads what others gave of it, and tells the margins.

Knows nothing of what is concluded from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.audits.given import Given
from gateway.audits.looks import Look
from gateway.peers.worker import Worker
from p2pnet.records import ModelCard
from p2pnet.score_messages import Scored

MAX_FREE_TOKENS = 256
"""Of an answer that goes on: for each of them the worker computes the logits of the whole vocabulary, which it would
not need, and the client waits for that."""


@dataclass(frozen=True)
class Part:
    """So many tokens that one worker gave of an answer which was passed on to the client. `given` is what was gathered
    of it, where it is to be looked at."""

    worker: Worker
    card: ModelCard
    tokens: int
    given: Given | None = None


class FreeLook:
    """Gathers the margins of an answer that goes on. `conclude` is told what each part comes to, once all have come."""

    def __init__(self, parts: Sequence[Part], conclude: Callable[[Part, Look], None]) -> None:
        self._parts = parts
        self._conclude = conclude
        self._margins: list[float] = []

    def note(self, scored: Scored) -> None:
        self._margins += scored.values
        if len(self._margins) < sum(part.tokens for part in self._parts):
            return
        first = 0
        for part in self._parts:
            self._conclude(part, Look(tuple(self._margins[first : first + part.tokens])))
            first += part.tokens
