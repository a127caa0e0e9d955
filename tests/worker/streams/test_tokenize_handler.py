"""One inbound tokenize stream: tokens, refusals, and slots that are not those of answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from p2pnet import client
from p2pnet.directory import validator
from p2pnet.errors import Busy, Draining, FeatureMissing, ModelNotFound, P2PNetError
from p2pnet.messages import Accepted, Finished, TextPrompt, Usage
from p2pnet.network.kept_streams import KeptStreams
from p2pnet.network.memory import MemoryWorld
from p2pnet.tokenize_messages import Tokenized, TokenizeEvent, TokenizeRequest
from p2pnet.wire.exchange import TOKENIZE_PROTOCOL
from p2pnet.worker.backend import TokenizeBackendEvent
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.tokenize_handler import TokenizeHandler
from tests.stories import ManualClock, card, peer, settle
from tests.worker.scripted import Scripted

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id
REQUEST = TokenizeRequest("r1", "echo", TextPrompt("Hi"), "ids")
ANSWER = (Accepted(2), Tokenized((72,)), Tokenized((9,)), Finished("stop", Usage(2, 0)))

Step = TokenizeBackendEvent | BaseException | asyncio.Event


class ScriptedTokens(Scripted):
    """A backend that plays a script of events, errors and gates to whoever wants tokens."""

    def __init__(self, *script: Step) -> None:
        super().__init__(models=(card("echo", features=("text", "tokenize")),))
        self.script = script

    async def tokenize(self, asked: TokenizeRequest) -> AsyncGenerator[TokenizeBackendEvent, None]:
        self.running += 1
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                else:
                    yield step
        finally:
            self.running -= 1


class Site:
    """A worker that tells tokens, and a client on the memory network."""

    def __init__(self, backend: Scripted, refusal: P2PNetError | None = None) -> None:
        self.backend = backend
        catalogue = Catalogue([backend])
        clock = ManualClock()
        self.meter = LoadMeter(1, catalogue, clock, lambda: clock.now_ms / 1000)
        self.handler = TokenizeHandler(catalogue.find_tokenizer, self.meter, refusal=lambda: refusal)
        world = MemoryWorld(validator(clock))
        self._worker = world.join(WORKER)
        self._client = world.join(CLIENT)
        self.kept = KeptStreams()

    async def ask(self, request: TokenizeRequest = REQUEST) -> list[TokenizeEvent]:
        await self._worker.handle(TOKENIZE_PROTOCOL, self.handler)
        return [event async for event in client.tokenize(self._client, WORKER, request, kept=self.kept)]


async def test_tokens_come_as_the_backend_gives_them_with_the_load() -> None:
    site = Site(ScriptedTokens(*ANSWER))
    for _ in range(2):  # the second on the stream that was kept
        accepted, *parts, finished = await site.ask()
        assert parts == list(ANSWER[1:3])
        assert isinstance(accepted, Accepted) and isinstance(finished, Finished)
        assert (accepted.prompt_tokens, accepted.load.slots, finished.usage) == (2, 1, Usage(2, 0))
        assert finished.keep_stream
    assert site.meter.requests_served == 2
    await site.kept.close()


async def test_its_slots_are_none_of_the_answers_and_no_load() -> None:
    """Given a model whose one slot is taken by an answer, when tokens are counted, then they are, by one at a time."""
    gate = asyncio.Event()
    site = Site(ScriptedTokens(ANSWER[0], gate, *ANSWER[1:]))
    with site.meter.slot("echo"):
        first = asyncio.create_task(site.ask())
        await settle(lambda: site.backend.running == 1)
        assert (site.meter.load.running, site.meter.load.queued) == (0, 1), "the answer alone"
        with pytest.raises(Busy):
            await site.ask()
        gate.set()
        assert len(await first) == 4
    await site.kept.close()


REFUSALS: dict[str, tuple[Scripted, P2PNetError | None, TokenizeRequest, type[P2PNetError]]] = {
    "a worker that stops": (ScriptedTokens(*ANSWER), Draining("the owner is using it"), REQUEST, Draining),
    "a model that is not there": (
        ScriptedTokens(*ANSWER),
        None,
        TokenizeRequest("r1", "other", TextPrompt("Hi")),
        ModelNotFound,
    ),
    "a backend that cannot": (Scripted(), None, REQUEST, ModelNotFound),
    "a model that cannot": (ScriptedTokens(FeatureMissing("no", "model")), None, REQUEST, FeatureMissing),
}


@pytest.mark.parametrize(("backend", "refusal", "request_", "error"), REFUSALS.values(), ids=REFUSALS)
async def test_refusals(
    backend: Scripted, refusal: P2PNetError | None, request_: TokenizeRequest, error: type[P2PNetError]
) -> None:
    site = Site(backend, refusal)
    with pytest.raises(error):
        await site.ask(request_)
