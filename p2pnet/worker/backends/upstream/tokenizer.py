"""Has a server tell the tokens of prompts: another part of an upstream backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from p2pnet.errors import WorkerFailed
from p2pnet.messages import Accepted, Finished, TokenPrompt, Usage
from p2pnet.tokenize_messages import TokenizeRequest
from p2pnet.worker.backend import TokenizeBackendEvent
from p2pnet.worker.backends.served import check_tokenize, not_served
from p2pnet.worker.backends.upstream.dialect import UpstreamCall
from p2pnet.worker.backends.upstream.models import PolledModels
from p2pnet.worker.backends.upstream.offer import Offer
from p2pnet.worker.backends.upstream.session import UpstreamSession
from p2pnet.worker.backends.upstream.tokens import (
    MAX_TOKENS_BYTES,
    parse_text,
    parse_tokens,
    template_call,
    tokens_call,
)
from p2pnet.worker.text.token_parts import id_parts, named, text_parts


class UpstreamTokenizer:
    """Tells tokens of the models of one upstream server. The backend that it belongs to closes what they share."""

    def __init__(self, session: UpstreamSession, models: PolledModels) -> None:
        self._session = session
        self._models = models

    async def tokenize(self, asked: TokenizeRequest) -> AsyncGenerator[TokenizeBackendEvent, None]:
        """Yields Accepted, Tokenized*, Finished; see TokenizeBackend."""
        offer = self._offer(asked)
        first = template_call(asked, offer)
        rendered = None if first is None else parse_text(await self._answer(first))
        body = await self._answer(tokens_call(asked, offer, rendered))
        if isinstance(asked.prompt, TokenPrompt):
            count, parts = len(asked.prompt.token_ids), text_parts(parse_text(body))
        else:
            found = parse_tokens(body)
            count, names = len(found.ids), [named(name) for name in found.names] if asked.wants == "names" else None
            if names is not None and len(names) != count:
                raise WorkerFailed("the upstream server does not name its tokens")
            parts = id_parts(() if asked.wants == "count" else found.ids, names)
        yield Accepted(count, offer.card.digest)
        for part in parts:
            yield part
        yield Finished("stop", Usage(count, 0))

    def _offer(self, asked: TokenizeRequest) -> Offer:
        offer = self._models.offers.get(asked.model)
        if offer is None or offer.does != "generate":
            raise not_served(asked)
        check_tokenize(asked, offer.card)
        return offer

    async def _answer(self, call: UpstreamCall) -> bytes:
        with self._models.doubted_on_failure():
            return await self._session.ask(call, MAX_TOKENS_BYTES)
