"""A backend without a model, for tests and benchmarks: it repeats what it is told, at once and always the same.

Knows nothing of torch; its time and its pauses are passed in.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from p2pnet.errors import ModelNotFound, WorkerFailed
from p2pnet.features import CHAT, IGNORE_EOS, TEXT, TOKENS, check_features
from p2pnet.messages import Accepted, ChatPrompt, Finished, FinishReason, GenerateRequest, Prompt, TextPrompt, Usage
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendEvent, BackendLoad
from p2pnet.worker.engine.limits import tokens_to_generate
from p2pnet.worker.text.detokenizer import Piece
from p2pnet.worker.text.emission import Emitter

ECHO_DIGEST = "sha256:" + sha256(b"p2pnet/echo/1").hexdigest()

FEATURES = (CHAT, TEXT, TOKENS, IGNORE_EOS)
"""There is no end token to ignore, and one token to choose from at any temperature."""

_WORD = re.compile(r"\s*\S+|\s+$")
"""A word with the space before it, so that the words joined are the text."""


@dataclass(frozen=True)
class EchoOptions:
    """What the echo backend pretends to be.

    `says` is what it generates: the last message or text word by word, or "tok0 ", "tok1 " and so on up to max_tokens.
    `delay_s` passes before each token. `fails_after_tokens` is when it raises WorkerFailed; None is never.
    """

    name: str = "echo"
    context_length: int = 4096
    says: Literal["prompt", "numbers"] = "prompt"
    delay_s: float = 0.0
    fails_after_tokens: int | None = None


class EchoBackend:
    """Every word is a token, and its id is its index in what is said.

    `gate`, when given, is awaited with that index before each token: a test holds a generation there.
    """

    def __init__(
        self,
        options: EchoOptions = EchoOptions(),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        gate: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._options = options
        self._sleep = sleep
        self._gate = gate
        self._card = ModelCard(options.name, ECHO_DIGEST, options.context_length, features=FEATURES)
        self.running = 0
        """How many generations are under way; a test sees here that a cancelled one has ended."""

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return (self._card,)

    @property
    def load(self) -> BackendLoad:
        return BackendLoad()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """Accepted, TextDelta*, Finished; see Backend."""
        if request.model != self._card.id or request.digest not in (None, self._card.digest):
            raise ModelNotFound(f"The model {request.model!r} with this digest is not served here.", "model")
        check_features(request, self._card.features)
        prompt_tokens = _count_tokens(request.prompt)
        max_tokens = tokens_to_generate(prompt_tokens, request.max_tokens, self._card.context_length)
        yield Accepted(prompt_tokens, self._card.digest)
        self.running += 1
        try:
            async with aclosing(self._say(request, prompt_tokens, max_tokens)) as events:
                async for event in events:
                    yield event
        finally:
            self.running -= 1

    async def close(self) -> None:
        """Nothing to free."""

    async def _say(
        self, request: GenerateRequest, prompt_tokens: int, max_tokens: int
    ) -> AsyncGenerator[BackendEvent, None]:
        words = self._words(request.prompt, max_tokens)
        reason: FinishReason = "length" if len(words) >= max_tokens else "stop"
        emitter = Emitter(_Words(words), request.stop)
        completion_tokens = 0
        for index in range(min(len(words), max_tokens)):
            await self._before(index)
            completion_tokens += 1
            if index in request.stop_token_ids:
                reason = "stop"
                break
            if delta := emitter.feed(index):
                yield delta
            if emitter.is_stopped:
                reason = "stop"
                break
        for delta in emitter.flush():
            yield delta
        yield Finished(reason, Usage(prompt_tokens, completion_tokens))

    async def _before(self, index: int) -> None:
        """What may happen before a token: a test's gate, a delay, a failure."""
        if self._gate:
            await self._gate(index)
        if self._options.delay_s:
            await self._sleep(self._options.delay_s)
        if index == self._options.fails_after_tokens:
            raise WorkerFailed("the echo backend was told to fail here")

    def _words(self, prompt: Prompt, max_tokens: int) -> list[str]:
        if self._options.says == "numbers":
            return [f"tok{index} " for index in range(max_tokens)]
        return _WORD.findall(_text(prompt))


class _Words:
    """The decoder of an echo: the id of a word is its index."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def feed(self, token_id: int) -> Piece:
        return Piece((token_id,), self._words[token_id])

    def flush(self) -> None:
        return None


def _text(prompt: Prompt) -> str:
    """What is repeated: the last message, the text, or the ids as numbers."""
    match prompt:
        case ChatPrompt(messages):
            return messages[-1].content
        case TextPrompt(text):
            return text
        case _:
            return " ".join(map(str, prompt.token_ids))


def _count_tokens(prompt: Prompt) -> int:
    """Words of the whole prompt; an empty one counts as one, for the token it would begin with."""
    texts = [message.content for message in prompt.messages] if isinstance(prompt, ChatPrompt) else [_text(prompt)]
    return sum(len(_WORD.findall(text)) for text in texts) or 1
