"""Knows how far a request has come whose answer is of no use in part. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from gateway.dispatch.progress import Continuation, E, Q
from p2pnet.messages import Finished
from p2pnet.records import ModelCard


class WholeProgress(Generic[Q, E]):
    """Holds back what comes until all of it has: so whoever is asked next begins anew, of whatever digest. See
    `Progress`."""

    has_begun = False
    is_splittable = False
    can_go_on_exactly = True
    parts_given = 0

    def __init__(self, request: Q) -> None:
        self._request = request
        self._held: list[E] = []
        self.is_over = False

    def split(self) -> Sequence[WholeProgress[Q, E]]:
        return ()

    def end_of_parts(self) -> list[E]:
        return []

    def continuations(self) -> Sequence[Continuation[Q]]:
        return [Continuation(self._request)]

    def begin(self, card: ModelCard, by_text: bool = False) -> None:
        self._held.clear()

    def take(self, event: E) -> list[E]:
        self._held.append(event)
        self.is_over = isinstance(event, Finished)
        return self._held if self.is_over else []

    def seen_end(self, event: E) -> None:
        """All is there or not."""

    def end_at_limit(self) -> list[E]:
        return []
