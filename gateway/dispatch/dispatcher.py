"""Try, and try the next: the only loop that sends a request to workers, and the only one that sends it again.

Before its first token a request may move to another worker, and the client does not notice. After it, a broken stream
is an error: what was sent cannot be taken back.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from gateway.peers import Monotonic, PeerTable
from gateway.routing import Candidate, eligible, obstacle, rank
from p2pnet.client import generate
from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import Busy, FeatureMissing, ModelNotFound, NoWorker, P2PNetError
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta
from p2pnet.network import Network

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
"""Workers tried for one request. When eight in a row fail, waiting helps more than a ninth."""


class Dispatcher:
    """Serves requests through the workers of a network. `run` is a `service.Generate`."""

    def __init__(
        self,
        network: Network,
        peers: PeerTable,
        rng: random.Random,
        now_s: Monotonic = time.monotonic,
        timeouts: ExchangeTimeouts | None = None,
    ) -> None:
        self._network = network
        self._peers = peers
        self._rng = rng
        self._now_s = now_s
        self._timeouts = timeouts or ExchangeTimeouts()

    async def run(self, request: GenerateRequest) -> AsyncGenerator[Accepted | TextDelta | Finished, None]:
        """Accepted, TextDelta*, Finished. Raises RequestError (ModelNotFound, FeatureMissing when nobody can do what is
        asked), Busy, NoWorker, or the worker's own error once its first token is out."""
        failures: list[P2PNetError] = []
        accepted: Accepted | None = None
        has_token = False
        for candidate in await self._order(request):
            try:
                async with aclosing(self._attempt(candidate, request)) as events:
                    async for event in events:
                        if isinstance(event, Accepted):
                            if accepted is not None:
                                continue
                            accepted = event
                            # What the client was told of the weights holds for whoever goes on in this one's place.
                            request = msgspec.structs.replace(request, digest=event.digest or request.digest)
                        has_token = has_token or isinstance(event, TextDelta)
                        yield event
                return
            except P2PNetError as error:
                if not error.may_retry:
                    raise
                self._note(candidate, request, error)
                if has_token:
                    raise
                failures.append(error)
        raise _verdict(request, failures)

    async def _order(self, request: GenerateRequest) -> list[Candidate]:
        able = eligible(self._peers.candidates(), request, self._now_s())
        if not able:
            await self._peers.look_up(request.model)
            able = eligible(self._peers.candidates(), request, self._now_s())
        if not able:
            raise self._why_nobody(request)
        return rank(able, self._rng, MAX_ATTEMPTS)

    def _why_nobody(self, request: GenerateRequest) -> P2PNetError:
        if (error := obstacle(self._peers.candidates(), request)) is not None:
            return error
        if self._peers.has_known(request.model):
            return NoWorker(f"No worker runs the model {request.model} at the moment.")
        return ModelNotFound(f"The model {request.model} does not exist on this network.", "model")

    async def _attempt(
        self, candidate: Candidate, request: GenerateRequest
    ) -> AsyncGenerator[Accepted | TextDelta | Finished, None]:
        with self._peers.in_flight(candidate.peer_id):
            events = generate(
                self._network,
                candidate.peer_id,
                request,
                candidate.record.addresses,
                self._timeouts,
                max_tokens=request.max_tokens or candidate.context_length(request.model),
            )
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Finished):
                        self._peers.note_success(candidate.peer_id)
                    yield event

    def _note(self, candidate: Candidate, request: GenerateRequest, error: P2PNetError) -> None:
        logger.info("%s: %s could not serve it: %s (%s)", request.request_id, candidate.peer_id, error, error.code)
        is_healthy = isinstance(error, Busy | FeatureMissing | ModelNotFound)
        if not is_healthy:
            self._peers.note_failure(candidate.peer_id)


def _verdict(request: GenerateRequest, failures: Sequence[P2PNetError]) -> P2PNetError:
    """What to tell the client when nobody could serve it."""
    if all(isinstance(error, ModelNotFound) for error in failures):
        return ModelNotFound(f"No worker runs the model {request.model} any more.", "model")
    if all(isinstance(error, FeatureMissing | ModelNotFound) for error in failures):
        return next(error for error in failures if isinstance(error, FeatureMissing))
    if any(isinstance(error, Busy) for error in failures):
        return Busy(f"All workers of the model {request.model} are busy. Try again in a moment.")
    codes = ", ".join(sorted({error.code for error in failures}))
    return NoWorker(f"No worker of the model {request.model} could be used ({codes}). Try again in a moment.")
