"""The GatewayService: all that the HTTP surfaces may ask of the rest of the gateway.

Knows nothing of HTTP dialects, peers or routing. Tests hand in plain functions.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from gateway.interface import (
    Caller,
    Embed,
    Generate,
    GenerationEvent,
    ModelEntry,
    RankingEvent,
    Rerank,
    Tokenize,
    TokenizingEvent,
)
from gateway.observability.views import Observability
from gateway.receipts.store import ReceiptStore
from gateway.standing.desk import Desk
from p2pnet.errors import FeatureMissing
from p2pnet.images import images_of
from p2pnet.messages import GenerateRequest
from p2pnet.rerank_messages import RerankRequest
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest


def _new_id() -> str:
    return uuid.uuid4().hex


def _new_seed() -> int:
    return secrets.randbits(63)


async def _no_tokens(request: TokenizeRequest, caller: Caller) -> AsyncGenerator[TokenizingEvent, None]:
    raise FeatureMissing(f"The model {request.model} does not tell its tokens here.", "model")
    yield  # which makes it a generator


async def _no_ranking(request: RerankRequest, caller: Caller) -> AsyncGenerator[RankingEvent, None]:
    raise FeatureMissing(f"The model {request.model} does not rank documents.", "model")
    yield  # which makes it a generator


@dataclass(frozen=True)
class GatewayService:
    """What a surface may ask for. Without `observability` the gateway tells nothing of itself. `now` is Unix time in
    seconds; `make_seed` gives 63 random bits."""

    generate: Generate
    embed: Embed
    list_models: Callable[[], Sequence[ModelEntry]]
    is_ready: Callable[[], bool]
    tokenize: Tokenize = _no_tokens
    rerank: Rerank = _no_ranking
    observability: Observability | None = None
    now: Callable[[], float] = time.time
    make_id: Callable[[], str] = _new_id
    make_seed: Callable[[], int] = _new_seed
    receipts: ReceiptStore = field(default_factory=ReceiptStore)
    standing: Desk | None = None
    """Where volunteers show what they have; None: nobody has standing here."""
    code_model_name: str | None = None
    """What the gateway's owner has named as such; see `gateway.model_names.code_models`."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names for models; see `gateway.model_names.naming`. `generate` and `embed` know them by themselves."""

    async def count(self, request: GenerateRequest, caller: Caller) -> AsyncGenerator[GenerationEvent, None]:
        """As `generate`, of which only the usage of the prompt is wanted. A worker that tells tokens counts them; where
        there is none, or it is the answer that goes on, or there are images, whose tokens nobody tells, `request` is
        generated, and should ask for one token."""
        if not request.resume_text and not any(images_of(request.prompt)):
            asked = TokenizeRequest(request.request_id, request.model, request.prompt)
            try:
                async with aclosing(self.tokenize(asked, caller)) as counted:
                    async for event in counted:
                        if not isinstance(event, Tokenized):
                            yield event
                return
            except FeatureMissing:
                pass  # if nobody generates either, that one says why
        async with aclosing(self.generate(request, caller)) as events:
            async for generated in events:
                yield generated
