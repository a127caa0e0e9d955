"""Keeps the last choices of routing, and what each was based on."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gateway.observability.views import ChoiceView, ConsideredView
from gateway.routing.choose import WorkerChoice
from gateway.routing.route_query import RouteQuery
from gateway.routing.scoring import Considered

MAX_CHOICES = 200

MAX_CONSIDERED = 16
"""Workers shown of one choice. Two are sampled; where health leaves nobody else there may be more."""


@dataclass(frozen=True)
class _Noted:
    at_unix_s: float
    query: RouteQuery
    worker: str
    why: str
    considered: tuple[Considered, ...]


class ChoiceLog:
    """Noting costs next to nothing, since every request does; what is shown is made when somebody looks."""

    def __init__(self, max_choices: int = MAX_CHOICES, unix_s: Callable[[], float] = time.time) -> None:
        self._noted: deque[_Noted] = deque(maxlen=max_choices)
        self._unix_s = unix_s

    def note(self, query: RouteQuery, choice: WorkerChoice) -> None:
        """A request goes to this worker. That there was nobody is no choice: a queue finds that many times a second."""
        considered = choice.considered[:MAX_CONSIDERED]
        self._noted.append(_Noted(self._unix_s(), query, choice.worker.peer_id, choice.why, considered))

    def views(self) -> list[ChoiceView]:
        """Newest first."""
        return [_view(noted) for noted in reversed(self._noted)]


def _view(noted: _Noted) -> ChoiceView:
    query = noted.query
    return ChoiceView(
        at_unix_s=noted.at_unix_s,
        model=query.model,
        task=query.task,
        digest=query.digest,
        features=tuple(sorted(query.features)),
        tokens=query.tokens,
        worker=noted.worker,
        why=noted.why,
        considered=tuple(map(_considered, noted.considered)),
    )


def _considered(considered: Considered) -> ConsideredView:
    return ConsideredView(
        worker=considered.worker,
        expected_s=considered.expected_s if math.isfinite(considered.expected_s) else None,
        in_flight=considered.in_flight,
        pressure=considered.pressure,
        slots=considered.slots,
        state=considered.state.value,
        first_token_s=considered.first_token_s,
        token_s=considered.token_s,
        round_trip_s=considered.round_trip_s,
    )
