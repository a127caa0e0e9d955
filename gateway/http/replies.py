"""Sends a generation as an HTTP response, streamed or whole, until it ends or its client leaves.

Owns when the status is decided, what happens when a client goes away, and that a broken generation never looks
complete. Knows nothing of any dialect: a surface hands in the renderer. Raw ASGI, one `send` per batch of events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.http.call_order import CallOrder
from gateway.http.collected import (
    Collecting,
    CollectingScores,
    CollectingTokens,
    CollectingVectors,
    Embedded,
    Generated,
    Ranked,
    TokensTold,
)
from gateway.http.failures import Failure, describe
from gateway.http.json_response import EncodedJson
from gateway.http.left_out import left_out_headers
from gateway.http.limits import HttpLimits
from gateway.http.thoughts import Thought, Thoughts
from gateway.interface import Caller, EmbeddingEvent, GenerationEvent, RankingEvent, Routed, TokenizingEvent, Waiting
from p2pnet.errors import P2PNetError, PeerLost
from p2pnet.flow.pump import Abandoned, Pump
from p2pnet.flow.stall_timer import StallTimer
from p2pnet.messages import Accepted, Finished, TextDelta
from p2pnet.receipts.document import ReceiptDocument

log = logging.getLogger(__name__)

Events = AsyncGenerator[GenerationEvent, None]
AnswerEvent = Accepted | Thought | TextDelta | Finished
EventPump = Pump[GenerationEvent]


class StreamRenderer(Protocol):
    """Turns events into the bytes of a streamed dialect. One instance serves one response, and is called in order. The
    calls of an answer come one after the other: see `CallOrder`."""

    @property
    def media_type(self) -> str: ...

    @property
    def shows_thoughts(self) -> bool:
        """Whether it has a place of its own for what a model thinks; without one it is text as any other."""
        ...

    def keep_alive(self, waiting: Waiting | None) -> bytes:
        """What keeps a silent connection from being taken for a dead one. It tells the position in the queue."""
        ...

    def render(self, events: Sequence[AnswerEvent]) -> bytes: ...

    def render_failure(self, failure: Failure) -> bytes: ...

    def with_receipts(self, end: bytes, document: bytes) -> bytes:
        """The end of the stream with the workers' receipts, as JSON on one line. Clients that do not know of them pass
        over them."""
        ...


MAX_HEADER_BYTES = 4096
"""Of receipts in a header: proxies take 4 to 8 KB of all headers together. What is larger is fetched by its id."""


def route_headers(routed: Routed | None) -> dict[str, str]:
    """Headers that say which worker answered."""
    if routed is None:
        return {}
    return {
        "x-p2pnet-worker": routed.worker,
        "x-p2pnet-attempts": str(routed.attempts),
        "x-p2pnet-queue-ms": str(routed.queued_ms),
    }


def waiting_comment(waiting: Waiting | None) -> str:
    """Says in words why a stream is silent, for people who look at it."""
    if waiting is None:
        return "keep-alive"
    estimate = "" if waiting.estimate_s is None else f", about {max(1, round(waiting.estimate_s))} s"
    return f"waiting for a worker: position {waiting.position}{estimate}"


def receipt_headers(document: ReceiptDocument | None) -> dict[str, str]:
    """A header with the receipts, where there are any, without the requests that they are of."""
    if document is None:
        return {}
    raw = document.without_requests().to_json()
    told = raw if len(raw) <= MAX_HEADER_BYTES else ReceiptDocument(document.id, ()).to_json()
    return {"x-p2pnet-receipt": told.decode()}


def finished_receipts(scope: Scope) -> ReceiptDocument | None:
    """The answer is complete: the receipts for it, if its client has asked for them."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return None if caller is None or caller.receipts is None else caller.receipts.finish()


class UnbufferedResponse(Response):
    """A response that comes in parts, each of which is to reach the client at once."""

    def __init__(self, media_type: str, cache_control: str) -> None:
        # Proxies such as nginx collect a response unless told otherwise.
        super().__init__(headers={"cache-control": cache_control, "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.headers["content-type"] = media_type


class StreamedReply(UnbufferedResponse):
    """Streams a generation. The status is decided by its first event, or by `keep_alive_s` without one. `left_out` is
    what of the request nobody does."""

    def __init__(
        self, events: Events, renderer: StreamRenderer, limits: HttpLimits, left_out: Sequence[str] = ()
    ) -> None:
        super().__init__(renderer.media_type, cache_control="no-cache")
        self.headers.update(left_out_headers(left_out))
        self._events = events
        self._renderer = renderer
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._limits
        try:
            pump = Pump(self._events, limits.read_ahead_events, limits.keep_alive_s, at_end=_unfinished)
            async with pump, _watched(pump, receive):
                first = await pump.take()  # what it raises becomes a real status: nothing was sent
                self.headers.update(route_headers(_routed(first)))
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await _StreamWriter(pump, self._renderer, send, scope).run(first, limits.write_timeout_s)
        except Abandoned:
            log.debug("request %s: the client went away", _request_id(scope))


class _StreamWriter:
    """Writes what a pump holds until the generation ends, well or badly."""

    def __init__(self, pump: EventPump, renderer: StreamRenderer, send: Send, scope: Scope) -> None:
        self._pump = pump
        self._renderer = renderer
        self._send = send
        self._scope = scope
        self._thoughts = Thoughts() if renderer.shows_thoughts else None
        self._calls = CallOrder()

    async def run(self, first: Sequence[GenerationEvent], write_timeout_s: float) -> None:
        """Raises Abandoned when the client went away, or reads nothing for `write_timeout_s`.

        What comes first goes out with the head, in one write: nothing is in its way yet. The rest has a task of its
        own: a step of it does not walk through every layer around the application (twice the chunks per second,
        measured), and it can be cut off when the client stops reading.
        """
        body, is_open = self._rendered(first)
        await self._send({"type": "http.response.body", "body": body, "more_body": is_open})
        if not is_open:
            return
        task = asyncio.get_running_loop().create_task(self._write_rest())
        self._stall = StallTimer(write_timeout_s, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            if not self._stall.is_exhausted:
                raise
            raise Abandoned from None
        finally:
            self._stall.close()

    async def _write_rest(self) -> None:
        is_open = True
        while is_open:
            try:
                events = await self._pump.take()
            except Abandoned:
                raise
            except Exception as error:
                body, is_open = self._render_error(error), False
            else:
                body, is_open = self._rendered(events)
            if body or not is_open:
                await self._write(body, is_open)

    def _rendered(self, events: Sequence[GenerationEvent]) -> tuple[bytes, bool]:
        """What is sent of them, and whether more may follow."""
        try:
            return self._render(events)
        except Exception as error:  # the status is out, so the stream has to say it
            return self._render_error(error), False

    def _render(self, events: Sequence[GenerationEvent]) -> tuple[bytes, bool]:
        answer = [event for event in events if not isinstance(event, Waiting | Routed)]
        if answer:
            body = self._renderer.render(self._ordered(answer))
            if not isinstance(answer[-1], Finished):
                return body, True
            receipts = finished_receipts(self._scope)
            if receipts is not None:
                body = self._renderer.with_receipts(body, receipts.without_requests().to_json())
            return body, False
        waiting = next((event for event in reversed(events) if isinstance(event, Waiting)), None)
        return self._renderer.keep_alive(waiting), True

    def _ordered(self, events: Sequence[Accepted | TextDelta | Finished]) -> list[AnswerEvent]:
        """With thoughts apart, and one call after the other."""
        thoughts = self._thoughts
        apart = events if thoughts is None else [each for event in events for each in thoughts.take(event)]
        return [each for event in apart for each in self._calls.take(event)]

    def _render_error(self, error: Exception) -> bytes:
        if not isinstance(error, P2PNetError):
            log.error("request %s: unexpected error", _request_id(self._scope), exc_info=error)
        return self._renderer.render_failure(describe(error))

    async def _write(self, body: bytes, has_more: bool) -> None:
        self._stall.begin()
        await self._send({"type": "http.response.body", "body": body, "more_body": has_more})
        self._stall.end()


W = TypeVar("W", bound=Generated | Embedded | TokensTold | Ranked)


class _CompleteReply(Response, Generic[W]):
    """Waits for an answer to be complete, and sends it as one JSON document. Errors propagate: nothing was sent."""

    def __init__(
        self,
        events: AsyncGenerator[Any, None],
        collecting: Callable[[Any, float], W | None],
        render: Callable[[W], bytes],
        limits: HttpLimits,
        left_out: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._left_out = left_out
        self._events = events
        self._collecting = collecting
        self._render = render
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            pump = Pump(self._events, self._limits.read_ahead_events, at_end=_unfinished)
            async with pump, _watched(pump, receive):
                complete = await self._collect(pump)
        except Abandoned:
            return
        headers = (
            route_headers(complete.routed)
            | left_out_headers(self._left_out)
            | receipt_headers(finished_receipts(scope))
        )
        await EncodedJson(self._render(complete), headers=headers)(scope, receive, send)

    async def _collect(self, pump: Pump[Any]) -> W:
        while True:
            for event in await pump.take():
                complete = self._collecting(event, time.monotonic())
                if complete is not None:
                    return complete


class WholeReply(_CompleteReply[Generated]):
    """Sends a whole generation as one document. `left_out` is what of the request nobody does."""

    def __init__(
        self,
        events: Events,
        render: Callable[[Generated], bytes],
        limits: HttpLimits,
        shows_thoughts: bool = False,
        left_out: Sequence[str] = (),
    ) -> None:
        super().__init__(events, Collecting(time.monotonic(), shows_thoughts).take, render, limits, left_out)


class VectorsReply(_CompleteReply[Embedded]):
    """Sends all vectors as one document, in the order of their inputs."""

    def __init__(
        self, events: AsyncGenerator[EmbeddingEvent, None], render: Callable[[Embedded], bytes], limits: HttpLimits
    ) -> None:
        super().__init__(events, CollectingVectors(time.monotonic()).take, render, limits)


class TokensReply(_CompleteReply[TokensTold]):
    """Sends all tokens, or all of their text, as one document."""

    def __init__(
        self, events: AsyncGenerator[TokenizingEvent, None], render: Callable[[TokensTold], bytes], limits: HttpLimits
    ) -> None:
        super().__init__(events, CollectingTokens().take, render, limits)


class RankedReply(_CompleteReply[Ranked]):
    """Sends the scores of all documents as one document."""

    def __init__(
        self, events: AsyncGenerator[RankingEvent, None], render: Callable[[Ranked], bytes], limits: HttpLimits
    ) -> None:
        super().__init__(events, CollectingScores().take, render, limits)


def _routed(events: Sequence[GenerationEvent]) -> Routed | None:
    return next((event for event in events if isinstance(event, Routed)), None)


def _unfinished() -> PeerLost:
    """A generation that just ends, without Finished, is never taken for a complete one."""
    return PeerLost("the generation ended before it was finished")


def _request_id(scope: Scope) -> str:
    return str(scope.get("state", {}).get("request_id", "-"))


@asynccontextmanager
async def _watched(pump: EventPump, receive: Receive) -> AsyncIterator[None]:
    """Abandon the generation in the moment in which its client goes away, whatever is being waited for."""
    watcher = asyncio.get_running_loop().create_task(until_disconnect(receive))
    watcher.add_done_callback(lambda _: pump.abandon())
    try:
        yield
    finally:
        watcher.cancel()


async def until_disconnect(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
