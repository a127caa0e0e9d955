"""Answers generate streams: a BackendStreamHandler that sends deltas.

Deltas that wait while the stream is busy travel in one frame. Knows nothing of the directory, nor of which models
there are: it asks for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from p2pnet.flow.pump import Pump
from p2pnet.messages import Finished, GenerateRequest, TextDelta
from p2pnet.score_messages import Scored
from p2pnet.wire.protocols import GENERATE
from p2pnet.worker.backend import Backend, BackendEvent
from p2pnet.worker.observability.load import Slot
from p2pnet.worker.streams.backend_stream_handler import BackendStreamHandler
from p2pnet.worker.streams.inbound import Asked, Hear
from p2pnet.worker.streams.merging import merged
from p2pnet.worker.streams.signing import SignedAnswer, Signer

READ_AHEAD_EVENTS = 256
"""How far a backend may run ahead of a slow client before it has to wait."""

MAX_FRAMES_PER_S = 4000
"""Frames of tokens that all streams together may send. A frame costs this worker, two p2pd and the gateway some 150 us
of CPU whatever it holds, so tokens that come faster share one: with 64 streams five times as many tokens get through
(`python -m bench.overhead`). One stream waits 0.25 ms, eight wait 2 ms: less than a model takes for a token."""

MAX_PAUSE_S = 0.02
"""However many streams there are, nobody sees a token come this much later."""


class GenerateHandler(BackendStreamHandler[GenerateRequest, Backend]):
    """Serves `/p2pnet/generate/1`.

    A request takes one slot of its model, however many answers it asks for: a slot is a stream with its buffers and its
    reader, and there is one. The engine makes a request of many answers wait for memory. If each answer took a slot, a
    request for more answers than there are slots would never find them free together.
    """

    protocol = GENERATE
    task = "generate"
    signer: Signer | None = None
    """Without one there are no receipts."""

    def _has_own_speed(self, backend: Backend) -> bool:
        return backend.load.decode_tokens_per_s.sampled_ms > 0

    def _unknown(self, model: str) -> str:
        return f"this worker does not run {model}"

    async def _answer(self, asked: Asked[GenerateRequest], backend: Backend, slot: Slot) -> Hear | None:
        signed = None if self.signer is None else self.signer.follow(asked)
        if signed is not None:
            asked.last_failure = signed.last_failure
        async with Pump(backend.generate(asked.request), READ_AHEAD_EVENTS) as pump:
            while not asked.exchange.is_done:
                events = await pump.take()
                slot.note_tokens(tokens_in(events))
                for event in events:
                    if isinstance(event, Finished):
                        slot.finish(event)
                await self._send(asked.stream, asked.exchange, self._to_send(events, asked, signed))
                if slot.is_computing:
                    await asyncio.sleep(self._pause_s())
        return None if signed is None else signed.hear

    def _to_send(
        self, events: Sequence[BackendEvent], asked: Asked[GenerateRequest], signed: SignedAnswer | None
    ) -> Iterable[BackendEvent]:
        """The events as they are sent."""
        for event in merged(events):
            told = event if isinstance(event, TextDelta | Scored) else self._told(event, asked)
            yield told if signed is None else signed.with_receipt(told)

    def _pause_s(self) -> float:
        """How long a stream that has just sent a frame lets further tokens wait, to send them together."""
        return min(MAX_PAUSE_S, self._meter.running / MAX_FRAMES_PER_S)


def tokens_in(events: Iterable[BackendEvent]) -> int:
    """How many tokens of the answer, not of the prompt's echo, there are. A delta that neither names nor counts them is
    one."""
    return sum(
        len(event.token_ids) or event.tokens or 1
        for event in events
        if isinstance(event, TextDelta) and not event.is_prompt
    )
