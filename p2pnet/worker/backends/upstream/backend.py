"""Passes requests on to a server that already runs models. The package tells its parts.

It neither tokenizes nor knows a vocabulary: its deltas have no token ids, and the prompt's tokens are an estimate until
the server has told the true number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest, ModelNotFound, UsageError, WorkerFailed
from p2pnet.messages import Accepted, GenerateRequest, TextDelta
from p2pnet.records import ModelCard
from p2pnet.tokenize_messages import TokenizeRequest
from p2pnet.worker.backend import BackendEvent, BackendLoad, TokenizeBackendEvent
from p2pnet.worker.backends.served import check_generate, not_served
from p2pnet.worker.backends.upstream.address import Kind, parse_address
from p2pnet.worker.backends.upstream.answer import UpstreamAnswer
from p2pnet.worker.backends.upstream.dialect import AnswerReader, Dialect, clamped, continued, estimated_prompt_tokens
from p2pnet.worker.backends.upstream.embedder import UpstreamEmbedder
from p2pnet.worker.backends.upstream.listings import OllamaListing, OpenAIListing, TeiListing, check_there, detect
from p2pnet.worker.backends.upstream.models import Listing, PolledModels
from p2pnet.worker.backends.upstream.offer import Offer
from p2pnet.worker.backends.upstream.ollama.dialect import OllamaDialect
from p2pnet.worker.backends.upstream.openai.dialect import OpenAIDialect
from p2pnet.worker.backends.upstream.reranker import UpstreamReranker
from p2pnet.worker.backends.upstream.session import UpstreamSession, UpstreamStream
from p2pnet.worker.backends.upstream.tokenizer import UpstreamTokenizer
from p2pnet.worker.speed import StreamSpeed

ACCEPT_S = 10.0
"""Ollama and llama.cpp say 200 with the first token, which may take minutes while a model is loaded or a prompt is
long. A request that has not been refused by now has been taken; a client waits 30 s to hear it."""

SPEED_MEMORY_S = 5.0
"""Of decoding: a server that others use too is soon faster or slower than it was."""

MIN_SPEED_S = 1.0
"""Of decoding: what is shorter is noise."""


SPEAKS: dict[Kind, tuple[Callable[[UpstreamSession], Listing], Callable[[], Dialect]]] = {
    Kind.openai: (OpenAIListing, OpenAIDialect),
    Kind.ollama: (OllamaListing, OllamaDialect),
    Kind.tei: (TeiListing, OpenAIDialect),
}
"""How the models of each kind of server are listed, and how they are asked to generate, which TEI's never are."""


@dataclass(frozen=True)
class UpstreamOptions:
    """Which server to use, and how to speak to it. With `kind` None, its kind is found out. `key` is sent to the server
    and nowhere else. `names` are what models are announced as, by what the server calls them. `readers` are models that
    read images, by the same names, where the server does not say so itself."""

    url: str
    kind: Kind | None = None
    key: str | None = None
    accept_s: float = ACCEPT_S
    names: Mapping[str, str] = field(default_factory=dict)
    readers: Collection[str] = ()


class UpstreamBackend:
    """Serves the models of one upstream server. Make one with `open`."""

    def __init__(self, session: UpstreamSession, dialect: Dialect, models: PolledModels, accept_s: float) -> None:
        self._session = session
        self._dialect = dialect
        self._models = models
        self._accept_s = accept_s
        self.embedder = UpstreamEmbedder(session, models, accept_s)
        """For the server's models that embed."""
        self.reranker = UpstreamReranker(session, models, accept_s)
        """For those that rank documents."""
        self._tokenizer = UpstreamTokenizer(session, models)
        self._speed = StreamSpeed(time.monotonic, lambda: time.time_ns() // 1_000_000, SPEED_MEMORY_S, MIN_SPEED_S)

    @classmethod
    async def open(
        cls, options: UpstreamOptions, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> UpstreamBackend:
        """Find out what the server is and has. Raises UsageError, which says what to do.

        A server without models is served all the same: they are announced when they come.
        """
        address = parse_address(options.url)
        if options.key is not None and not (options.key.isascii() and options.key.isprintable() and options.key):
            raise UsageError("The upstream's key cannot be sent: it is empty or not plain text.", "Check the variable.")
        session = UpstreamSession(address, options.key)
        try:
            kind = options.kind
            if kind is None:
                kind = await detect(session, address)
            else:
                await check_there(session, address, kind)
        except BaseException:
            await session.close()
            raise
        listing, dialect = SPEAKS[kind]
        models = PolledModels(listing(session), address.root, sleep, options.names, options.readers)
        backend = cls(session, dialect(), models, options.accept_s)
        await models.ask()
        models.start()
        return backend

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """The server's models that generate: none while it is away."""
        return tuple(offer.card for offer in self._models.offers.values() if offer.does == "generate")

    @property
    def names_there(self) -> frozenset[str]:
        """What the server calls the models that can be announced now."""
        return frozenset(offer.name for offer in self._models.offers.values())

    @property
    def load(self) -> BackendLoad:
        """Its speed, and its slots where it tells them; no server says how much memory it has."""
        told = [offer.slots for offer in self._models.offers.values() if offer.slots]
        return BackendLoad(decode_tokens_per_s=self._speed.measure, slots=min(told, default=0))

    async def refresh(self) -> None:
        """Ask the server for its models now, not at the next turn."""
        await self._models.ask()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """Yields Accepted, TextDelta*, Finished; see Backend.

        `Accepted.prompt_tokens` is an estimate. `Finished.usage` is the server's own count; where the server does not
        count, it is the estimate and the number of deltas. The seed is passed on: the server decides whether it makes
        an answer repeatable.
        """
        offer = self._offer(request)
        call = self._dialect.call(clamped(request, offer.card.context_length), offer)
        prompt_tokens = estimated_prompt_tokens(continued(request).prompt)
        opening = asyncio.ensure_future(self._session.open(call))
        try:
            await asyncio.wait({opening}, timeout=self._accept_s)
            if opening.done():
                await self._opened(opening, offer, request)
            yield Accepted(prompt_tokens, offer.card.digest)
            stream = await self._opened(opening, offer, request)
            answer = UpstreamAnswer(request, request.max_tokens or offer.card.context_length)
            reader = self._dialect.reader(request)
            async with aclosing(self._deltas(stream, reader, answer)) as deltas:
                async for delta in deltas:
                    yield delta
            yield answer.finished(reader.usage, prompt_tokens)
        finally:
            await _abandon(opening)

    def tokenize(self, asked: TokenizeRequest) -> AsyncGenerator[TokenizeBackendEvent, None]:
        """Yields Accepted, Tokenized*, Finished; see TokenizeBackend."""
        return self._tokenizer.tokenize(asked)

    async def close(self) -> None:
        """Stop asking, and close the connections."""
        await self._models.stop()
        await self._session.close()

    def _offer(self, request: GenerateRequest) -> Offer:
        offer = self._models.offers.get(request.model)
        if offer is None or offer.does != "generate":
            raise not_served(request)
        check_generate(request, offer.card)
        if not request.clamp_max_tokens and (request.max_tokens or 0) >= offer.card.context_length:
            raise ContextOverflow(
                f"This model's maximum context length is {offer.card.context_length} tokens, and {request.max_tokens} "
                "were requested besides the prompt.",
                "max_tokens",
            )
        return offer

    async def _opened(
        self, opening: asyncio.Future[UpstreamStream], offer: Offer, request: GenerateRequest
    ) -> UpstreamStream:
        """The stream, once the answer has begun. What a refusal says of the model is remembered."""
        try:
            return await opening
        except FeatureMissing as error:
            if error.param == "tools":
                self._models.without_tools(offer)
            raise
        except InvalidRequest as error:
            if request.resume_text:  # nobody else's request is at fault then: this model's template is
                raise FeatureMissing(error.message, "resume_text") from error
            raise
        except (ModelNotFound, WorkerFailed):
            self._models.ask_soon()
            raise

    async def _deltas(
        self, stream: UpstreamStream, reader: AnswerReader, answer: UpstreamAnswer
    ) -> AsyncGenerator[TextDelta, None]:
        """All of an answer's deltas, up to its end."""
        is_decoding = False
        try:
            async with aclosing(stream.lines()) as lines:
                async for line in lines:
                    before = answer.counted_tokens
                    deltas = list(answer.take(reader.feed(line)))
                    if tokens := answer.counted_tokens - before:
                        if is_decoding:
                            self._speed.note(tokens)
                        else:
                            self._speed.begin()
                            is_decoding = True
                    for delta in deltas:
                        yield delta
                    if reader.is_ended or answer.is_cut:
                        break
            for delta in answer.rest():
                yield delta
            if reader.is_ended:
                await stream.drain()
        finally:
            if is_decoding:
                self._speed.end()


async def _abandon(opening: asyncio.Future[UpstreamStream]) -> None:
    """Close the connection at once, whatever state it is in."""
    opening.cancel()
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
