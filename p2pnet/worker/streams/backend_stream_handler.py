"""Answers a stream with a backend: holds one slot for the request until its end.

Knows nothing of what is asked, nor of the directory or of which models there are: it asks for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from p2pnet.config import ExchangeTimeouts
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import Busy, Draining, ModelNotFound, P2PNetError, PeerLost, ProtocolViolation
from p2pnet.messages import Accepted, Finished, GenerateRequest
from p2pnet.rerank_messages import RerankRequest
from p2pnet.score_messages import ScoreRequest
from p2pnet.tokenize_messages import TokenizeRequest
from p2pnet.wire.codec import LENGTH_BYTES, MAX_ACKNOWLEDGED_FRAME_BYTES
from p2pnet.worker.backend import Backend, EmbedBackend, RerankBackend
from p2pnet.worker.observability.load import LoadMeter, Slot
from p2pnet.worker.streams.guard import Guard
from p2pnet.worker.streams.inbound import Asked, Hear, InboundHandler

R = TypeVar("R", GenerateRequest, EmbedRequest, ScoreRequest, TokenizeRequest, RerankRequest)
B = TypeVar("B", bound=Backend | EmbedBackend | RerankBackend)

LAST_WORDS_S = 2.0
"""How long a worker waits for a gateway to sign for an answer. It holds no slot meanwhile. A gateway that does not sign
ends its stream at once, or keeps it; only one that does neither is waited for."""


MAX_SAID_BYTES = LENGTH_BYTES + MAX_ACKNOWLEDGED_FRAME_BYTES


class BackendStreamHandler(InboundHandler[R], Generic[R, B]):
    """Serves the streams of one protocol. `find` says which backend serves a model at this moment, `refusal` why no
    request is taken now, if so, and `guard` what one gateway may take."""

    task: ClassVar[str]

    def __init__(
        self,
        find: Callable[[str], B | None],
        meter: LoadMeter,
        timeouts: ExchangeTimeouts | None = None,
        refusal: Callable[[], P2PNetError | None] = lambda: None,
        guard: Guard | None = None,
    ) -> None:
        guard = guard or Guard()
        super().__init__(guard, guard.requests_arriving, timeouts, meter.observer)
        self._find = find
        self._meter = meter
        self._refusal = refusal
        self.max_request_bytes = self._guard.max_request_bytes
        self.is_draining = False

    async def drain(self, limit_s: float) -> None:
        """Refuse new requests and wait for running ones, at most `limit_s` seconds."""
        self.is_draining = True
        self._guard.idle_streams.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._meter.wait_idle()

    @abstractmethod
    def _has_own_speed(self, backend: B) -> bool:
        """Whether the backend measures how fast it decodes."""

    @abstractmethod
    def _unknown(self, model: str) -> str:
        """The message for a model that nobody here serves."""

    @abstractmethod
    async def _answer(self, asked: Asked[R], backend: B, slot: Slot) -> Hear | None:
        """Send the backend's events until the exchange is done. Returns who hears what the client says after that."""

    def _told(self, event: Accepted | Finished, asked: Asked[R]) -> Accepted | Finished:
        """The event with how busy the worker is, and the last one with whether it waits for another request."""
        if isinstance(event, Accepted):
            return msgspec.structs.replace(event, load=self._meter.load)
        asked.is_kept = asked.request.keep_stream and not self.is_draining
        return msgspec.structs.replace(event, load=self._meter.load, keep_stream=asked.is_kept)

    def _check(self, peer_id: str) -> None:
        self._guard.check(peer_id)

    async def _answer_to(self, asked: Asked[R]) -> None:
        backend = self._backend_for(asked.request)
        key = (asked.request.model, self.task)
        with (
            self._guard.share(asked.stream.peer_id, key, self._meter.slots_per_model) as share,
            self._meter.slot(*key, has_own_speed=self._has_own_speed(backend)) as slot,
        ):
            slot.when_released(share.release)
            await self._serve(asked, backend, slot)

    def _backend_for(self, request: R) -> B:
        """The backend that serves this request. Raises why the request is not taken."""
        if self.is_draining:
            raise Draining("this worker is stopping")
        if (error := self._refusal()) is not None:
            raise error
        backend = self._find(request.model)
        if backend is None:
            raise ModelNotFound(self._unknown(request.model))
        return backend

    async def _serve(self, asked: Asked[R], backend: B, slot: Slot) -> None:
        """Answer until the exchange is done, the client goes, or the request has had its time. Then the backend is
        cancelled within one step."""
        answer = asyncio.create_task(self._answer(asked, backend, slot))
        last_words = asyncio.create_task(_said(asked))
        tasks: set[asyncio.Future[Any]] = {answer, last_words}
        limit_s = self._guard.max_request_s
        try:
            done, _ = await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise Busy(f"this worker gives {limit_s:g} s to one request")
            (answer if answer.done() else last_words).result()
            if not asked.exchange.is_done:
                raise PeerLost("the client went away in mid-answer")
            self._guard.note_served(asked.stream.peer_id)
            hear = await answer
            if asked.is_kept:
                asked.hear = hear
            elif hear is not None and (await asyncio.wait({last_words}, timeout=LAST_WORDS_S))[0]:
                hear(last_words.result())
        finally:
            answer.cancel()
            last_words.cancel()
            await asyncio.wait(tasks)


async def _said(asked: Asked[Any]) -> bytes:
    """Return when the client has closed the stream, with what it has said since the last event. Before that it has
    nothing to say, and then little. Of a stream that is kept, return with the first that comes: all stays in the inbox.
    """
    while await asked.inbox.wait():
        if asked.exchange.is_done and asked.is_kept:
            break
        if not asked.exchange.is_done or len(asked.inbox.waiting) > MAX_SAID_BYTES:
            raise ProtocolViolation("bytes after the request")
    return asked.inbox.waiting
