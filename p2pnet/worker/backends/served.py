"""Refuses requests that a backend cannot serve: another model, another digest, a missing feature.

Knows nothing of what runs the model.
"""

from __future__ import annotations

import msgspec

from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest, ModelNotFound
from p2pnet.features import CHAT, SCORE, TOKENIZE, TOOLS, check_features, check_needed
from p2pnet.images import check_images, images_of
from p2pnet.messages import ChatPrompt, GenerateRequest, TextPrompt
from p2pnet.records import ModelCard
from p2pnet.rerank_messages import RerankRequest
from p2pnet.score_messages import ScoreRequest
from p2pnet.tokenize_messages import TokenizeRequest
from p2pnet.wire.prompt_size import least_tokens_of
from p2pnet.worker.text.resuming import check_resume


def check_generate(request: GenerateRequest, card: ModelCard) -> None:
    """All that can be said without tokenizing. Raises RequestError."""
    check_model(request, card)
    check_features(request, card.features)
    check_images(request.prompt)
    check_resume(request)
    least_tokens = least_tokens_of(request.prompt)
    if least_tokens >= card.context_length:
        raise ContextOverflow.by_prompt(card.context_length, least_tokens)


def check_score(asked: ScoreRequest, card: ModelCard) -> None:
    """As `check_generate`, for an answer that is to be scored."""
    request = asked.request
    if request.n > 1:
        raise InvalidRequest("One answer is scored at a time: ask for each with its own seed.", "n")
    if request.digest is None or request.sampler is None:
        raise InvalidRequest(
            "An answer is scored by the digest and the sampler of whoever gave it: name both.",
            "sampler" if request.digest else "digest",
        )
    if not asked.token_ids and asked.reason is None:
        raise InvalidRequest("There is nothing to score: give tokens, or how the answer ended.", "token_ids")
    check_needed(request.model, [SCORE], card.features)
    check_generate(msgspec.structs.replace(request, echo=False, logprobs=None), card)


def check_tokenize(asked: TokenizeRequest, card: ModelCard) -> None:
    """As `check_generate`, for a prompt whose tokens are wanted. It need not fit the context."""
    check_model(asked, card)
    is_chat = isinstance(asked.prompt, ChatPrompt)
    check_needed(asked.model, {TOKENIZE, *((CHAT,) if is_chat else ())}, card.features)
    if isinstance(asked.prompt, ChatPrompt) and asked.prompt.tools:
        check_needed(asked.model, {TOOLS}, card.features)
    if any(images_of(asked.prompt)):
        raise FeatureMissing(
            "Nobody tells the tokens of images: the usage of an answer says how many they are.", "images"
        )
    if isinstance(asked.prompt, TextPrompt) and asked.prompt.suffix:
        raise InvalidRequest("A prompt with a suffix has no tokens of its own: ask for each of the two.", "prompt")


def check_model(request: GenerateRequest | EmbedRequest | TokenizeRequest | RerankRequest, card: ModelCard) -> None:
    """Raises ModelNotFound unless the request is for the model on this card."""
    if request.model != card.id:
        raise not_served(request)
    if request.digest not in (None, card.digest):
        raise ModelNotFound(f"The model {request.model!r} is served here with another digest.", "model")
    if isinstance(request, GenerateRequest) and request.sampler not in (None, card.sampler):
        raise ModelNotFound(f"The model {request.model!r} is served here with another sampler.", "model")


def not_served(request: GenerateRequest | EmbedRequest | TokenizeRequest | RerankRequest) -> ModelNotFound:
    """What a backend says that does not run the request's model at all."""
    return ModelNotFound(f"The model {request.model!r} is not served here.", "model")
