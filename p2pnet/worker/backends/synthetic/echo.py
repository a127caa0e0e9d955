"""Repeats what it is told, at once and always the same: a backend for tests and benchmarks.

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

from p2pnet.errors import FeatureMissing, WorkerFailed
from p2pnet.features import CHAT, IGNORE_EOS, RESUME, RESUME_TEXT, TEXT, TOKENS
from p2pnet.messages import Accepted, ChatPrompt, Finished, FinishReason, GenerateRequest, Prompt, TextPrompt, Usage
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.backends.served import check_generate
from p2pnet.worker.backends.synthetic.counting import counted
from p2pnet.worker.backends.synthetic.numbered_tokens import NumberedTokens, check_first_tokens
from p2pnet.worker.backends.synthetic.one_model import OneModel
from p2pnet.worker.engine.limits import tokens_to_generate
from p2pnet.worker.text.emission import Emitter

ECHO_DIGEST = "sha256:" + sha256(b"p2pnet/echo/1").hexdigest()

FEATURES = (CHAT, TEXT, TOKENS, IGNORE_EOS, RESUME, RESUME_TEXT)
"""There is no end token to ignore, and one token to choose from at any temperature."""

_WORD = re.compile(r"\s*\S+|\s+$")
"""A word with the space before it, so that the words joined are the text."""


@dataclass(frozen=True)
class EchoOptions:
    """What the echo backend pretends to be.

    `says` is what it generates: the last message or text word by word, or "tok0 ", "tok1 " and so on up to max_tokens.
    `delay_s` passes before each token. After `fails_after_tokens` tokens of its own in an answer it raises
    WorkerFailed; None is never.
    """

    name: str = "echo"
    context_length: int = 4096
    says: Literal["prompt", "numbers"] = "prompt"
    delay_s: float = 0.0
    fails_after_tokens: int | None = None


class EchoBackend(OneModel):
    """Repeats words. Every word is a token, and its id is its index in what is said.

    An answer can be resumed after ids that are those of its first words, and after a text that it begins with: where
    that text ends within a word, the rest of the word is said. `gate`, when given, is awaited with a word's index
    before it: a test holds a generation there.
    """

    def __init__(
        self,
        options: EchoOptions = EchoOptions(),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        gate: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(ModelCard(options.name, ECHO_DIGEST, options.context_length, features=FEATURES))
        self._options = options
        self._sleep = sleep
        self._gate = gate
        self.running = 0
        """How many generations are under way; a test sees here that a cancelled one has ended."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """Yields Accepted, TextDelta*, Finished; see Backend."""
        check_generate(request, self._card)
        part = self._part(request)
        yield Accepted(part.prompt_tokens, self._card.digest)
        self.running += 1
        try:
            async with aclosing(self._say(request, part)) as events:
                async for event in events:
                    yield event
        finally:
            self.running -= 1

    def _part(self, request: GenerateRequest) -> _Part:
        """The part of its answer that the request asks for. Raises RequestError."""
        context_length = self._card.context_length
        prompt_tokens = _count_tokens(request.prompt, context_length)
        if not request.resume_text:
            resumed = len(request.resume_tokens)
            limit = tokens_to_generate(prompt_tokens, request.max_tokens, context_length, request.clamp_max_tokens)
            words = self._words(request.prompt, limit)
            check_first_tokens(request.resume_tokens, min(limit, len(words)))
            return _Part(words, resumed, limit, prompt_tokens, 0)
        words, resumed = _after(request.resume_text, self._words(request.prompt, context_length))
        prompt_tokens += resumed
        limit = tokens_to_generate(prompt_tokens, request.max_tokens, context_length, request.clamp_max_tokens)
        return _Part(words, resumed, resumed + limit, prompt_tokens, resumed)

    async def _say(self, request: GenerateRequest, part: _Part) -> AsyncGenerator[BackendEvent, None]:
        reason: FinishReason = "length" if len(part.words) >= part.limit else "stop"
        emitter = Emitter(NumberedTokens(part.words), request.stop)
        emitter.replay(range(part.resumed))
        count = part.resumed
        while count < min(len(part.words), part.limit) and not emitter.is_stopped:
            token_id = count
            await self._before(token_id, count - part.resumed)
            count += 1
            if token_id in request.stop_token_ids:
                reason = "stop"
                break
            if delta := emitter.feed(token_id):
                yield delta
        if emitter.is_stopped:
            reason = "stop"
        for delta in emitter.flush():
            yield delta
        yield Finished(reason, Usage(part.prompt_tokens, count - part.uncounted), stop=emitter.stop)

    def _words(self, prompt: Prompt, max_tokens: int) -> list[str]:
        if self._options.says == "numbers":
            return [f"tok{index} " for index in range(max_tokens)]
        return _WORD.findall(_text(prompt))

    async def _before(self, index: int, given: int) -> None:
        """Do what may happen before a token, after so many were given: wait at a test's gate, pause, fail."""
        if self._gate:
            await self._gate(index)
        if self._options.delay_s:
            await self._sleep(self._options.delay_s)
        if given == self._options.fails_after_tokens:
            raise WorkerFailed("the echo backend was told to fail here")


@dataclass(frozen=True)
class _Part:
    """The words from index `resumed` to before `limit`, as far as there are so many. `uncounted` of them belong to the
    prompt."""

    words: list[str]
    resumed: int
    limit: int
    prompt_tokens: int
    uncounted: int


def _after(text: str, words: list[str]) -> tuple[list[str], int]:
    """The words, cut where `text` ends, and how many of them the text has. Raises FeatureMissing when they do not begin
    with the text."""
    if not "".join(words).startswith(text):
        raise FeatureMissing("Nothing that begins so is said here.", "resume_text")
    end = 0
    for index, word in enumerate(words):
        if end + len(word) > len(text):
            cut = len(text) - end
            head = [*words[:index], *([word[:cut]] if cut else [])]
            return [*head, word[cut:], *words[index + 1 :]], len(head)
        end += len(word)
    return words, len(words)


def _text(prompt: Prompt) -> str:
    """The text that is repeated: the last message, the text, or the ids as numbers."""
    match prompt:
        case ChatPrompt(messages):
            return messages[-1].content
        case TextPrompt(text):
            return text
        case _:
            return " ".join(map(str, prompt.token_ids))


def _count_tokens(prompt: Prompt, context_length: int) -> int:
    """The number of words in the whole prompt. An empty prompt counts as one, for the token it would begin with.

    Raises ContextOverflow as soon as it is too long: counting is done on the event loop."""
    texts = [message.content for message in prompt.messages] if isinstance(prompt, ChatPrompt) else [_text(prompt)]
    return counted(_WORD, texts, context_length)
