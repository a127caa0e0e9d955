"""Asks one worker for the rest of an answer, and a second one while the first part is late.

Whoever has the first part of the answer first goes on to the end, and the other one is told to stop. Knows nothing of
what is done when both fail.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Self

from gateway.dispatch.attempts import Attempts, Running
from gateway.dispatch.ends import EndSeen
from gateway.dispatch.progress import E, Progress, Q
from gateway.interface import Routed
from p2pnet.errors import EndDoubted, P2PNetError
from p2pnet.messages import Finished


@dataclass(frozen=True)
class Hedge(Generic[E]):
    """When a second worker is asked, in seconds from the beginning, and how. `start` is None when there is none."""

    delay_s: float
    start: Callable[[], Running[E] | None]


class Race(Generic[Q, E]):
    """Use as an async context manager: leaving it ends what still runs. `next` gives what the client is to be given."""

    def __init__(
        self,
        attempts: Attempts,
        first: Running[E],
        progress: Progress[Q, E],
        is_by_text: bool,
        hedge: Hedge[E] | None = None,
    ) -> None:
        self._attempts = attempts
        self._first = first
        self._progress = progress
        self._is_by_text = is_by_text
        self._hedge = hedge
        self._rivals = [first]
        self._winner: Running[E] | None = None
        self._opening: deque[E] = deque()
        """The winner's events up to the first part of the answer, as far as they were not passed on yet."""
        self._routed: Routed | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for running in self._rivals:
            await self._attempts.end(running)

    async def next(self) -> Sequence[Routed | E] | None:
        """None once the worker has said all. Raises what it failed with, or the last one of two."""
        try:
            winner = self._winner or await self._begin()
            # Each token comes this way, so it is not passed on by one more call.
            event = self._opening.popleft() if self._opening else await winner.attempt.next(winner.stream)
            if event is None:
                return None
            if isinstance(event, Finished):
                self._check_end(winner, event, self._progress.seen_end(event))
            given = self._progress.take(event)
        except P2PNetError as error:
            await self._fail(error)
            raise
        if self._routed is None or not given:
            return given
        routed, self._routed = self._routed, None
        self._first.account.trace.is_routed = True
        return [routed, *given]

    def _check_end(self, winner: Running[E], finished: Finished, end: EndSeen | None) -> None:
        """Raises EndDoubted where another worker is to be asked whether the answer ends there."""
        if winner.account.doubt.rises(winner.attempt, finished, end, self._progress.parts_given):
            raise EndDoubted(f"it ended the answer after {0 if end is None else end.tokens} tokens")

    async def _begin(self) -> Running[E]:
        """Find out who goes on. The client is told who it is, with the first that it is given of this request."""
        self._winner = winner = await self._decide()
        winner.has_won = True
        self._progress.begin(winner.attempt.card, self._is_by_text)
        trace = winner.account.trace
        if not trace.is_routed:
            self._routed = trace.routed(winner.attempt)
        return winner

    async def _fail(self, error: P2PNetError) -> None:
        if self._winner is None:
            return  # both have been ended, each with its own error
        if not self._progress.is_over:
            self._winner.account.trace.note_broken()
        await self._attempts.end(self._winner, error)

    async def _decide(self) -> Running[E]:
        """The attempt that has the first part of the answer first. Raises the error of the last one when all fail."""
        if self._hedge is None:
            self._opening.extend(await self._open(self._first))  # there is no second one, and a task costs time
            return self._first
        openings = {asyncio.create_task(self._open(self._first)): self._first}
        winner: Running[E] | None = None
        try:
            done, _ = await asyncio.wait(openings, timeout=self._hedge.delay_s)
            if not done and (second := self._hedge.start()) is not None:
                self._rivals.append(second)
                openings[asyncio.create_task(self._open(second))] = second
            failed: P2PNetError | None = None
            while openings:
                done, _ = await asyncio.wait(openings, return_when=asyncio.FIRST_COMPLETED)
                for opening in done:
                    running = openings.pop(opening)
                    try:
                        self._opening.extend(opening.result())
                    except P2PNetError as error:
                        failed = error
                    else:
                        winner = running
                        return winner
            assert failed is not None
            raise failed
        finally:
            await self._stop(openings, winner)

    async def _open(self, running: Running[E]) -> list[E]:
        """Its events up to the first part of the answer, which the echo of a prompt is not."""
        events: list[E] = []
        attempt = running.attempt
        try:
            while (event := await attempt.next(running.stream)) is not None:
                events.append(event)
                if attempt.has_token or attempt.finish_reason:
                    break
        except P2PNetError as error:
            await self._attempts.end(running, error)
            raise
        self._attempts.note_first_token(attempt)
        return events

    async def _stop(self, openings: dict[asyncio.Task[list[E]], Running[E]], winner: Running[E] | None) -> None:
        for opening in openings:
            opening.cancel()
        if openings:
            for opening in (await asyncio.wait(openings))[0]:
                _ = opening.cancelled() or opening.exception()  # whatever it is, it comes too late
        for running in openings.values():
            if winner is None:
                await self._attempts.end(running)
            else:
                await self._attempts.end_beaten(running, winner)
