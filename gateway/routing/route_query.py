"""Gathers what routing needs to know of a request.

Workers keep the computed beginnings of prompts, so that the next turn of a chat, or the next completion in a file,
costs less where the last one was. Knows nothing of workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from p2pnet.embed_messages import EmbedRequest
from p2pnet.features import CHAT, DIMENSIONS, RERANK, TEXT, TOKENIZE, TOKENS, TOOLS, features_needed
from p2pnet.images import IMAGE_TOKENS, image_hash
from p2pnet.messages import ChatPrompt, GenerateRequest, Prompt, TextPrompt, TokenPrompt
from p2pnet.records import ModelCard, ModelTask
from p2pnet.rerank_messages import RerankRequest
from p2pnet.tokenize_messages import TokenizeRequest
from p2pnet.wire.prompt_size import least_tokens_of

USUAL_TOKENS = 256
"""What an answer has where its request names no limit."""

CHARS_PER_TOKEN = 4

KEY_BYTES = 16

MIN_CHARS = 128
MIN_TOKENS = 32
"""Workers reuse whole blocks of 32 tokens, some 128 characters: a shorter beginning saves nothing."""

MAX_CHARS = 1024
MAX_TOKENS = 256
"""Beginnings of text are told apart by this much at most, so that a text that grows keeps its worker."""

MAX_CHAT_CHARS = 1 << 14
"""Turns that begin with so much of the same are the same for this purpose; hashing it takes some 20 microseconds."""

Weights = tuple[str | None, str | None]
"""The digest and the sampler that are asked for; None is any."""


@dataclass(frozen=True)
class RouteQuery:
    """What routing needs to know of a request. `tokens` is how many it may take, prompt and answer, roughly: it weighs
    requests against one another; `prompt_tokens` is how many of these have to be read before the answer begins, or goes
    on, and `least_prompt_tokens` what the prompt has at least. `max_tokens` None asks for no room in a context.
    `affinity` names those that begin in the same way; None is no preference."""

    model: str
    task: str = "generate"
    digest: str | None = None
    features: frozenset[str] = frozenset()
    max_tokens: int | None = None
    tokens: int = 1
    affinity: bytes | None = None
    prompt_tokens: int = 1
    least_prompt_tokens: int = 0
    sampler: str | None = None

    @property
    def context(self) -> int:
        """Tokens that the context must hold at least."""
        return self.least_prompt_tokens + (self.max_tokens or 0)

    @property
    def weights(self) -> Weights:
        """Which weights, and which sampler, must answer."""
        return self.digest, self.sampler

    def accepts(self, card: ModelCard) -> bool:
        """Whether these are the weights, and this is the sampler."""
        return self.digest in (None, card.digest) and self.sampler in (None, card.sampler)

    @property
    def key(self) -> ModelTask:
        return self.model, self.task


def task_of(request: GenerateRequest | EmbedRequest | TokenizeRequest | RerankRequest) -> str:
    """What is asked of the model."""
    return {EmbedRequest: "embed", TokenizeRequest: "tokenize", RerankRequest: "rerank"}.get(type(request), "generate")


def route_query_of(request: GenerateRequest | EmbedRequest | TokenizeRequest | RerankRequest) -> RouteQuery:
    """What routing needs to know of it."""
    if isinstance(request, RerankRequest):
        tokens = sum(1 + (len(request.query) + len(text)) // CHARS_PER_TOKEN for text in request.documents)
        needed = frozenset({RERANK})
        return RouteQuery(request.model, "rerank", request.digest, needed, tokens=tokens, prompt_tokens=tokens)
    if isinstance(request, EmbedRequest):
        tokens = sum(_tokens_of(text) for text in request.inputs)
        return RouteQuery(
            request.model,
            "embed",
            request.digest,
            _embedding_features(request),
            tokens=tokens,
            prompt_tokens=tokens,
            least_prompt_tokens=max(_input_tokens(text, request.truncate) for text in request.inputs),
        )
    prompt_tokens = _tokens_of(request.prompt)
    if isinstance(request, TokenizeRequest):
        features = _tokenizing_features(request.prompt)
        return RouteQuery(request.model, "tokenize", request.digest, features, tokens=prompt_tokens)
    limit = None if request.clamp_max_tokens else request.max_tokens
    answer = min(USUAL_TOKENS, request.max_tokens or USUAL_TOKENS) if limit is None else limit
    return RouteQuery(
        request.model,
        "generate",
        request.digest,
        features_needed(request),
        limit,
        prompt_tokens + answer * request.n,
        beginning_of(request.prompt),
        prompt_tokens + len(request.resume_tokens) + len(request.resume_text) // CHARS_PER_TOKEN,
        least_tokens_of(request.prompt),
        request.sampler,
    )


def _tokenizing_features(prompt: Prompt) -> frozenset[str]:
    chat = (CHAT, *((TOOLS,) if prompt.tools else ())) if isinstance(prompt, ChatPrompt) else ()
    return frozenset({TOKENIZE, *chat})


def _embedding_features(request: EmbedRequest) -> frozenset[str]:
    kinds = {TEXT if isinstance(text, TextPrompt) else TOKENS for text in request.inputs}
    return frozenset(kinds if request.dimensions is None else {*kinds, DIMENSIONS})


def _tokens_of(prompt: Prompt) -> int:
    """Roughly."""
    if isinstance(prompt, TokenPrompt):
        return len(prompt.token_ids)
    if isinstance(prompt, TextPrompt):
        return 1 + (len(prompt.text) + len(prompt.suffix)) // CHARS_PER_TOKEN
    said = sum(1 + len(message.content) // CHARS_PER_TOKEN for message in prompt.messages)
    return said + IMAGE_TOKENS * sum(len(message.images) for message in prompt.messages)


def _input_tokens(prompt: TextPrompt | TokenPrompt, truncate: bool) -> int:
    """A text to be made a vector of may be cut to fit, ids are not."""
    return 0 if truncate and isinstance(prompt, TextPrompt) else least_tokens_of(prompt)


def beginning_of(prompt: Prompt) -> bytes | None:
    """16 bytes; None for a prompt too short to be worth it."""
    if isinstance(prompt, ChatPrompt):
        return _of_chat(prompt)
    if isinstance(prompt, TextPrompt):
        length = _cut(len(prompt.text), MIN_CHARS, MAX_CHARS)
        return _key(prompt.text[:length].encode(errors="replace")) if length else None
    length = _cut(len(prompt.token_ids), MIN_TOKENS, MAX_TOKENS)
    return _key(b"".join(token.to_bytes(4, "big") for token in prompt.token_ids[:length])) if length else None


def _of_chat(prompt: ChatPrompt) -> bytes | None:
    """Of the leading system messages and the first of the others, which all turns of a chat have in common; and of as
    many more as make it long enough: "hello" is a beginning of too many. An image is long enough, and is its hash."""
    chosen: list[str] = []
    length = 0
    for message in prompt.messages:
        chosen += (message.role, *(image_hash(image).hex() for image in message.images))
        chosen.append(message.content[: MAX_CHAT_CHARS - length])
        length += len(chosen[-1]) + MIN_CHARS * len(message.images)
        if message.role != "system" and length >= MIN_CHARS:
            break
    if length < MIN_CHARS:
        return None
    return _key("\0".join(chosen).encode(errors="replace"))


def _cut(length: int, least: int, most: int) -> int:
    """The largest of least, twice that, four times that, up to most, that is not above the length; 0 if none is."""
    return max((cut for cut in _doublings(least, most) if cut <= length), default=0)


def _doublings(least: int, most: int) -> list[int]:
    return [least << doubling for doubling in range((most // least).bit_length())]


def _key(beginning: bytes) -> bytes:
    return blake2b(beginning, digest_size=KEY_BYTES).digest()
