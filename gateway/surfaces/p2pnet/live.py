"""Streams the overview as server-sent events: each section, and each worker, when it has changed. Looks once a second.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from starlette.types import Receive, Scope, Send

from gateway.http import sse
from gateway.http.limits import HttpLimits
from gateway.http.replies import UnbufferedResponse, until_disconnect
from gateway.observability.views import Overview
from gateway.observability.watchers import Watchers
from gateway.surfaces.p2pnet import render

LOOK_S = 1.0
Ends = set[asyncio.Future[Any]]
KEEP_ALIVE = sse.comment("keep-alive")


class Changes:
    """What one watcher has been shown, and what is new to it."""

    def __init__(self) -> None:
        self._sections: dict[str, bytes] = {}
        self._workers: dict[str, bytes] | None = None
        self._total = 0

    def since(self, seen: Overview) -> bytes:
        """The events that bring the watcher up to date; none when nothing has changed."""
        sections = render.sections(seen)
        changed = [(name, body) for name, body in sections.items() if self._sections.get(name) != body]
        self._sections = sections
        return b"".join(sse.event(name, body) for name, body in (*changed, *self._worker_events(seen)))

    def _worker_events(self, seen: Overview) -> Iterator[tuple[str, bytes]]:
        workers = {worker.view.id: render.worker(worker) for worker in seen.workers}
        before = self._workers or {}
        changed = [body for peer_id, body in workers.items() if before.get(peer_id) != body]
        gone = [peer_id for peer_id in before if peer_id not in workers]
        if changed or gone or self._workers is None or seen.total != self._total:
            yield "workers", render.worker_changes(changed, gone, seen.total)
        self._workers, self._total = workers, seen.total


class LiveReply(UnbufferedResponse):
    """Shows overviews until the client goes away, reads nothing any more, or the gateway stops. Raises Busy, before
    anything is sent, where too many watch."""

    def __init__(
        self, overview: Callable[[], Overview], watchers: Watchers, limits: HttpLimits, look_s: float = LOOK_S
    ) -> None:
        super().__init__("text/event-stream", cache_control="no-store")
        self._overview = overview
        self._watchers = watchers
        self._limits = limits
        self._look_s = look_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._watchers.watching() as closing:
            ends: Ends = {asyncio.ensure_future(closing.wait()), asyncio.ensure_future(until_disconnect(receive))}
            try:
                await self._show(send, ends)
            except TimeoutError:
                return  # whoever reads nothing for this long is gone
            finally:
                for end in ends:
                    end.cancel()

    async def _show(self, send: Send, ends: Ends) -> None:
        changes = Changes()
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        told_s = float("-inf")
        is_over = False
        while not is_over:
            body = changes.since(self._overview())
            if not body and time.monotonic() - told_s >= self._limits.keep_alive_s:
                body = KEEP_ALIVE
            if body:
                told_s = time.monotonic()
                await self._send(send, body)
            is_over = bool((await asyncio.wait(ends, timeout=self._look_s, return_when=asyncio.FIRST_COMPLETED))[0])
        await self._send(send, b"", has_more=False)

    async def _send(self, send: Send, body: bytes, has_more: bool = True) -> None:
        async with asyncio.timeout(self._limits.write_timeout_s):
            await send({"type": "http.response.body", "body": body, "more_body": has_more})
