"""Says when an attempt is too slow to stay where it is, and whether another worker has room for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway.dispatch.attempt import Terms
from gateway.dispatch.lateness import UNASKED_S
from gateway.dispatch.progress import E, Progress, Q
from gateway.dispatch.refusals import Refusals
from gateway.membership.table import PeerTable
from gateway.peers.worker import Worker
from gateway.routing.route_query import RouteQuery
from p2pnet.features import RESUME


class Moving:
    """Knows all workers of one gateway."""

    def __init__(self, table: PeerTable, now_s: Callable[[], float]) -> None:
        self._table = table
        self._now_s = now_s

    def terms(
        self,
        query: RouteQuery,
        progress: Progress[Q, E],
        worker: Worker,
        passed_over: Refusals,
        has_verdict: bool = False,
    ) -> Terms:
        """For what this worker, which has just been chosen, is asked. One that has announced more requests than slots
        may take its time: it was chosen all the same. `passed_over` are those that have failed the request.
        `has_verdict`: until the answer begins, the client can be told something without it."""
        announced = 0 if worker.load is None else worker.load.running + worker.load.queued
        crowd = max(1.0, announced / worker.slots)

        def has_elsewhere() -> bool:
            if has_verdict and not progress.has_begun:
                return True
            wanted = _going_on(query, progress, worker) if progress.has_begun else query
            return wanted is not None and self._has_room(wanted, worker, passed_over)

        limit_s = UNASKED_S if has_verdict else float("inf")
        return Terms(query.prompt_tokens, passed_over.patience * crowd, limit_s, has_elsewhere)

    def _has_room(self, query: RouteQuery, slow: Worker, passed_over: Refusals) -> bool:
        """Whether another worker has, that is well."""
        group, now_s = self._table.roster.able(query), self._now_s()
        return group is not None and any(
            worker is not slow
            and worker.peer_id not in passed_over
            and worker.health_of(query.key).may_take(now_s)
            and worker.has_room(query.key, now_s)
            and worker.pressure() < worker.slots
            for worker in group.workers
        )


def _going_on(query: RouteQuery, progress: Progress[Q, E], worker: Worker) -> RouteQuery | None:
    """What whoever goes on with the same tokens must be able to do; None where nobody can."""
    card = worker.card(query.key)
    if card is None or not progress.can_go_on_exactly:
        return None
    features = query.features | {RESUME} if query.task == "generate" else query.features
    return replace(query, digest=card.digest, sampler=card.sampler, features=features)
