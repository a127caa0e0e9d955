"""Serves calls of the DHT: reads each question within its bounds, has it answered, and writes the answer.

Knows nothing of what is asked: see `answering`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from p2pnet.errors import PeerLost
from p2pnet.network.dht.call_limits import MAX_CALLS, Caller, CallLimits
from p2pnet.network.dht.calls import (
    ENVELOPE_BYTES,
    IncomingMessage,
    packed_answer,
    packed_error,
    question_in,
)
from p2pnet.network.dht.messages import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, Malformed
from p2pnet.network.interface import BareStream
from p2pnet.network.multiaddrs import address_group

logger = logging.getLogger(__name__)

QUESTION_S = 5.0
"""From the opened stream to the whole question: the largest over a slow uplink. Callers give up after 3 s."""

ANSWER_S = 10.0
"""For an answer of the largest size to be read, over a line of 4 Mbit/s."""

PARTING_S = 3.0
"""How long the caller may take to say that it has read the answer: some round trips over a bad line."""

Answer = Callable[[Caller, bytes], bytes]
"""Answer one question. Raises Malformed when it is none, or asks for too much."""


class CallServer:
    """All calls to this node that are under way."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._limits = CallLimits()
        self._reading: dict[asyncio.Task[bytes], str] = {}

    async def serve(self, stream: BareStream, answer: Answer) -> None:
        """Serve one call; the stream is closed afterwards. One that is over a limit is closed at once."""
        caller = Caller(stream.peer_id, address_group(stream.address))
        try:
            if self._limits.enter(caller, self._now_s()):
                try:
                    await self._serve(stream, caller, answer)
                finally:
                    self._limits.leave(caller)
        except (Malformed, PeerLost, TimeoutError) as error:
            logger.debug("a call of %s was not answered: %s", caller.peer_id, error)
        finally:
            stream.close()

    async def _serve(self, stream: BareStream, caller: Caller, answer: Answer) -> None:
        call_id, question = question_in(await self._question(stream, caller))
        try:
            answered = packed_answer(call_id, answer(caller, question))
            if len(answered) > MAX_RESPONSE_BYTES:
                raise Malformed("more than fits an answer: ask for fewer keys at once")
        except Malformed as error:
            answered = packed_error(call_id, str(error))
        if not self._limits.begin_answer(caller, len(answered), self._now_s()):
            return
        try:
            async with asyncio.timeout(ANSWER_S):
                stream.stop_reading()  # what the caller says now is left unread: see `calls.DONE`
                await stream.write(answered)
        finally:
            self._limits.end_answer(caller, len(answered))
        async with asyncio.timeout(PARTING_S):
            await stream.wait_unread()

    async def _question(self, stream: BareStream, caller: Caller) -> bytes:
        """Read a question. When too many are being read, the one that has taken longest is given up, of the group that
        has most."""
        if self._limits.calls > MAX_CALLS and self._reading:
            greatest = max(self._reading.values(), key=self._limits.calls_of_group)
            next(task for task, group in self._reading.items() if group == greatest).cancel()
        task = asyncio.ensure_future(_read_question(stream))
        self._reading[task] = caller.group
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and not _is_being_cancelled():
                raise TimeoutError("too many questions at once, and this one took longest") from None
            raise
        finally:
            task.cancel()
            del self._reading[task]


async def _read_question(stream: BareStream) -> bytes:
    message = IncomingMessage(stream, MAX_REQUEST_BYTES + ENVELOPE_BYTES)
    async with asyncio.timeout(QUESTION_S):
        await message.length()
        return await message.body()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
