"""Refuses requests that a backend cannot serve: another model, another digest, a missing feature.

Knows nothing of what runs the model.
"""

from __future__ import annotations

from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import ContextOverflow, ModelNotFound
from p2pnet.features import check_features
from p2pnet.messages import GenerateRequest
from p2pnet.records import ModelCard
from p2pnet.wire.prompt_size import least_tokens_of
from p2pnet.worker.text.resuming import check_resume


def check_generate(request: GenerateRequest, card: ModelCard) -> None:
    """All that can be said without tokenizing. Raises RequestError."""
    check_model(request, card)
    check_features(request, card.features)
    check_resume(request)
    least_tokens = least_tokens_of(request.prompt)
    if least_tokens >= card.context_length:
        raise ContextOverflow.by_prompt(card.context_length, least_tokens)


def check_model(request: GenerateRequest | EmbedRequest, card: ModelCard) -> None:
    """Raises ModelNotFound unless the request is for the model on this card."""
    if request.model != card.id:
        raise not_served(request)
    if request.digest not in (None, card.digest):
        raise ModelNotFound(f"The model {request.model!r} is served here with another digest.", "model")
    if isinstance(request, GenerateRequest) and request.sampler not in (None, card.sampler):
        raise ModelNotFound(f"The model {request.model!r} is served here with another sampler.", "model")


def not_served(request: GenerateRequest | EmbedRequest) -> ModelNotFound:
    """What a backend says that does not run the request's model at all."""
    return ModelNotFound(f"The model {request.model!r} is not served here.", "model")
