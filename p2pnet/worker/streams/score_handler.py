"""Answers score streams: a BackendStreamHandler that sends margins.

Margins that wait while the stream is busy travel in one write. Knows nothing of the directory, nor of which models
there are: it asks for each request.
"""

from __future__ import annotations

from p2pnet.flow.pump import Pump
from p2pnet.messages import Finished
from p2pnet.score_messages import Scored, ScoreRequest
from p2pnet.wire.protocols import SCORE
from p2pnet.worker.backend import ScoreBackend
from p2pnet.worker.observability.load import Slot
from p2pnet.worker.streams.backend_stream_handler import BackendStreamHandler
from p2pnet.worker.streams.inbound import Asked

READ_AHEAD_EVENTS = 64
"""How far a backend may run ahead of a slow client before it has to wait: a megabyte of the largest ones."""


class ScoreHandler(BackendStreamHandler[ScoreRequest, ScoreBackend]):
    """Serves `/p2pnet/score/1`.

    Scores have as many slots of their own for each model as answers have: none of these is taken by a score, and who
    asks for many has no more than a share of them. They are computed in the background, so that a load says nothing of
    them.
    """

    protocol = SCORE
    task = "score"

    def _has_own_speed(self, backend: ScoreBackend) -> bool:
        return True  # nothing is decoded here

    def _unknown(self, model: str) -> str:
        return f"this worker does not score answers of {model}"

    async def _answer(self, asked: Asked[ScoreRequest], backend: ScoreBackend, slot: Slot) -> None:
        async with Pump(backend.score(asked.request), READ_AHEAD_EVENTS) as pump:
            while not asked.exchange.is_done:
                events = await pump.take()
                for event in events:
                    if isinstance(event, Finished):
                        slot.finish(event)
                told = (event if isinstance(event, Scored) else self._told(event, asked) for event in events)
                await self._send(asked.stream, asked.exchange, told)
