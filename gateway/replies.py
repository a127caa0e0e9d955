"""How a generation becomes an HTTP response: streamed or whole, with its status, its silences and its end.

Owns when the status is decided, what happens when a client goes away, and that a broken generation never looks
complete. Knows nothing of any dialect: a surface hands in the renderer. Raw ASGI, one `send` per batch of events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.failures import Failure, describe
from gateway.service import GenerationEvent, HttpLimits
from p2pnet.errors import P2PNetError, PeerLost
from p2pnet.messages import Accepted, Finished, TextDelta
from p2pnet.patience import Patience
from p2pnet.pump import Abandoned, Pump

log = logging.getLogger(__name__)

Events = AsyncGenerator[GenerationEvent, None]
EventPump = Pump[GenerationEvent]


class StreamRenderer(Protocol):
    """Events to the bytes of a streamed dialect. One instance serves one response, and is called in order."""

    @property
    def media_type(self) -> str: ...

    @property
    def keep_alive(self) -> bytes:
        """What is sent so that a silent connection is not taken for a dead one."""
        ...

    def render(self, events: Sequence[GenerationEvent]) -> bytes: ...

    def render_failure(self, failure: Failure) -> bytes: ...


@dataclass(frozen=True)
class Generated:
    """A complete generation."""

    text: str
    finished: Finished
    digest: str | None


class StreamedReply(Response):
    """Streams a generation. The status is decided by its first event, or by `keep_alive_s` without one."""

    def __init__(self, events: Events, renderer: StreamRenderer, limits: HttpLimits) -> None:
        # Proxies such as nginx collect a response unless told otherwise.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.headers["content-type"] = renderer.media_type
        self._events = events
        self._renderer = renderer
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._limits
        try:
            pump = Pump(self._events, limits.read_ahead_events, limits.keep_alive_s, at_end=_unfinished)
            async with pump, _watched(pump, receive):
                first = await pump.take()  # what it raises becomes a real status: nothing was sent
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await _Writer(pump, self._renderer, send, _request_id(scope)).run(first, limits.write_timeout_s)
        except Abandoned:
            log.debug("request %s: the client went away", _request_id(scope))


class _Writer:
    """Writes what a pump holds until the generation ends, well or badly."""

    def __init__(self, pump: EventPump, renderer: StreamRenderer, send: Send, request_id: str) -> None:
        self._pump = pump
        self._renderer = renderer
        self._send = send
        self._request_id = request_id

    async def run(self, first: Sequence[GenerationEvent], write_timeout_s: float) -> None:
        """Raises Abandoned when the client went away, or reads nothing for `write_timeout_s`.

        The writing has a task of its own: a step of it does not walk through every layer around the application
        (twice the chunks per second, measured), and it can be cut off when the client stops reading.
        """
        task = asyncio.get_running_loop().create_task(self._write_all(first))
        self._stall = Patience(write_timeout_s, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            if not self._stall.is_exhausted:
                raise
            raise Abandoned from None
        finally:
            self._stall.close()

    async def _write_all(self, events: Sequence[GenerationEvent]) -> None:
        body, is_open = self._render(events)
        await self._write(body, is_open)
        while is_open:
            try:
                body, is_open = self._render(await self._pump.take())
            except Abandoned:
                raise
            except Exception as error:  # the status is out, so the stream has to say it
                body, is_open = self._render_error(error), False
            if body or not is_open:
                await self._write(body, is_open)

    def _render(self, events: Sequence[GenerationEvent]) -> tuple[bytes, bool]:
        if not events:
            return self._renderer.keep_alive, True
        return self._renderer.render(events), not isinstance(events[-1], Finished)

    def _render_error(self, error: Exception) -> bytes:
        if not isinstance(error, P2PNetError):
            log.error("request %s: unexpected error", self._request_id, exc_info=error)
        return self._renderer.render_failure(describe(error))

    async def _write(self, body: bytes, has_more: bool) -> None:
        self._stall.begin()
        await self._send({"type": "http.response.body", "body": body, "more_body": has_more})
        self._stall.end()


class WholeReply(Response):
    """Waits for a generation to be complete, and sends it as one JSON document. Errors propagate: nothing was sent."""

    def __init__(self, events: Events, render: Callable[[Generated], bytes], limits: HttpLimits) -> None:
        super().__init__()
        self._events = events
        self._render = render
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            pump = Pump(self._events, self._limits.read_ahead_events, at_end=_unfinished)
            async with pump, _watched(pump, receive):
                generated = await _collect(pump)
        except Abandoned:
            return
        await Response(self._render(generated), media_type="application/json")(scope, receive, send)


async def _collect(pump: EventPump) -> Generated:
    parts: list[str] = []
    digest: str | None = None
    while True:
        for event in await pump.take():
            if isinstance(event, TextDelta):
                parts.append(event.text)
            elif isinstance(event, Accepted):
                digest = event.digest
            else:
                return Generated("".join(parts), event, digest)


def _unfinished() -> PeerLost:
    """A generation that just ends, without Finished, is never taken for a complete one."""
    return PeerLost("the generation ended before it was finished")


def _request_id(scope: Scope) -> str:
    return str(scope.get("state", {}).get("request_id", "-"))


@asynccontextmanager
async def _watched(pump: EventPump, receive: Receive) -> AsyncIterator[None]:
    """Abandon the generation in the moment in which its client goes away, whatever is being waited for."""
    watcher = asyncio.get_running_loop().create_task(_until_disconnect(receive))
    watcher.add_done_callback(lambda _: pump.abandon())
    try:
        yield
    finally:
        watcher.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
