"""Answers tokenize streams: a BackendStreamHandler that sends tokens.

Knows nothing of the directory, nor of which models there are: it asks for each request.
"""

from __future__ import annotations

from p2pnet.flow.pump import Pump
from p2pnet.messages import Finished
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.wire.protocols import TOKENIZE
from p2pnet.worker.backend import TokenizeBackend
from p2pnet.worker.observability.load import Slot
from p2pnet.worker.streams.backend_stream_handler import BackendStreamHandler
from p2pnet.worker.streams.inbound import Asked

READ_AHEAD_PARTS = 16
"""How far a backend may run ahead of a slow client before it has to wait: a megabyte of the largest ones."""


class TokenizeHandler(BackendStreamHandler[TokenizeRequest, TokenizeBackend]):
    """Serves `/p2pnet/tokenize/1`.

    There are as many slots for it with each model as answers have, and none of these is taken: nothing is computed, so
    who counts tokens does not wait behind those who have them generated.
    """

    protocol = TOKENIZE
    task = "tokenize"

    def _has_own_speed(self, backend: TokenizeBackend) -> bool:
        return True  # nothing is decoded here

    def _unknown(self, model: str) -> str:
        return f"this worker does not tell tokens of {model}"

    async def _answer(self, asked: Asked[TokenizeRequest], backend: TokenizeBackend, slot: Slot) -> None:
        async with Pump(backend.tokenize(asked.request), READ_AHEAD_PARTS) as pump:
            while not asked.exchange.is_done:
                events = await pump.take()
                for event in events:
                    if isinstance(event, Finished):
                        slot.finish(event)
                told = (event if isinstance(event, Tokenized) else self._told(event, asked) for event in events)
                await self._send(asked.stream, asked.exchange, told)
