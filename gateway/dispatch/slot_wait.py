"""Waits for a worker's slot, and says meanwhile at which position of the queue."""

from __future__ import annotations

import asyncio
from typing import Self

from gateway.dispatch.attempt import Monotonic
from gateway.dispatch.failure_policy import FailurePolicy
from gateway.dispatch.request_trace import RequestTrace
from gateway.interface import Waiting
from gateway.queueing.admission import Admission
from gateway.queueing.ticket import Ticket
from gateway.routing.choose import WorkerChoice
from p2pnet.errors import Busy, DeadlineExceeded, NoWorker

WAITING_NOTE_S = 8.0
"""How often a waiting client is told its position: before the surfaces' own keep-alive, which would say less."""


class SlotWait:
    """One request's wait. Use as an async context manager: who leaves it without a choice leaves the queue."""

    def __init__(
        self, admission: Admission, ticket: Ticket, trace: RequestTrace, policy: FailurePolicy, now_s: Monotonic
    ) -> None:
        self._admission = admission
        self._ticket = ticket
        self._trace = trace
        self._policy = policy
        self._now_s = now_s
        self._began_s = now_s()
        self._entering: asyncio.Future[WorkerChoice] | None = None
        self._choice: WorkerChoice | None = None

    @property
    def choice(self) -> WorkerChoice:
        """The worker whose slot is reserved, once `next` has returned None."""
        assert self._choice is not None
        return self._choice

    async def __aenter__(self) -> Self:
        self._choice = self._admission.admit_now(self._ticket)
        return self

    async def next(self) -> Waiting | None:
        """The position, now and then; None once there is a slot. Raises what the client is told that waited in vain."""
        if self._choice is not None:
            return None
        if self._entering is None:
            self._began_s = self._now_s()
            self._entering = asyncio.ensure_future(self._admission.admit(self._ticket))
        while not (await asyncio.wait({self._entering}, timeout=WAITING_NOTE_S))[0]:
            position = self._admission.position(self._ticket)
            if position is not None:
                return Waiting(position, self._admission.estimate_s(self._ticket))
        try:
            self._choice = self._entering.result()
        except (Busy, NoWorker, DeadlineExceeded) as error:
            raise self._policy.verdict(error) from None
        self._trace.note_queued(self._now_s() - self._began_s)
        return None

    async def __aexit__(self, *_: object) -> None:
        """The client may have gone while it waited: a slot that it was given in this moment is given back."""
        if self._choice is not None or self._entering is None:
            return
        self._entering.cancel()
        await asyncio.wait({self._entering})
        if not self._entering.cancelled() and self._entering.exception() is None:
            self._admission.give_back(self._ticket, self._entering.result())
