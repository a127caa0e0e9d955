"""A model without weights whose every token follows from the seed, the prompt and all tokens before it.

So an answer that loses, repeats or mixes up a single token says something else from there on, and what it has to say is
known beforehand: `chain_text`. Any worker that serves it gives the same answer. Knows nothing of the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from hashlib import blake2b, sha256

from p2pnet.errors import InvalidRequest, ModelNotFound
from p2pnet.features import CHAT, IGNORE_EOS, RESUME, TEXT, check_features
from p2pnet.messages import Accepted, ChatPrompt, Finished, GenerateRequest, Prompt, TextDelta, TextPrompt, Usage
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendEvent, BackendLoad
from p2pnet.worker.engine.limits import tokens_to_generate
from p2pnet.worker.text.detokenizer import Piece
from p2pnet.worker.text.emission import Emitter

CHAIN_DIGEST = "sha256:" + sha256(b"p2pnet/bench/chain/1").hexdigest()
CONTEXT_LENGTH = 1 << 16
VOCABULARY = 50_000
FEATURES = (CHAT, TEXT, IGNORE_EOS, RESUME)
"""There is no end token, and one token to choose from at any temperature."""

Note = Callable[[GenerateRequest, bool], None]


def chain_card(name: str) -> ModelCard:
    """How a worker announces it."""
    return ModelCard(name, CHAIN_DIGEST, CONTEXT_LENGTH, features=FEATURES)


def chain_text(prompt: str, seed: int, tokens: int) -> str:
    """What a chat whose last message is `prompt` is answered with."""
    ids = chain_ids(prompt, seed)
    return "".join(word_of(next(ids)) for _ in range(tokens))


def chain_ids(prompt: str, seed: int, resumed: tuple[int, ...] = ()) -> Iterator[int]:
    """The ids that follow `resumed`, without end."""
    state = blake2b(prompt.encode() + seed.to_bytes(8, "big"), digest_size=8)
    for token_id in resumed:
        state.update(token_id.to_bytes(4, "big"))
    while True:
        token_id = int.from_bytes(state.digest(), "big") % VOCABULARY
        yield token_id
        state.update(token_id.to_bytes(4, "big"))


def word_of(token_id: int) -> str:
    """Numbers with a character of two bytes behind them."""
    return f"{token_id}é "


def asked(prompt: Prompt) -> str:
    """The text that the answer depends on."""
    match prompt:
        case ChatPrompt(messages):
            return messages[-1].content
        case TextPrompt(text):
            return text
        case _:
            raise InvalidRequest("This model reads text.", "prompt")


def prompt_tokens(prompt: Prompt) -> int:
    return len(asked(prompt).split()) or 1


class ChainBackend:
    """Serves it, one token every `delay_s`. `note`, when given, is told of each request when its generation begins
    (True) and when it ends (False), however it ends."""

    def __init__(self, name: str, delay_s: float, note: Note | None = None) -> None:
        self._card = chain_card(name)
        self._delay_s = delay_s
        self._note = note or (lambda request, is_begin: None)
        self.running = 0
        """How many generations are under way."""

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return (self._card,)

    @property
    def load(self) -> BackendLoad:
        return BackendLoad()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """Accepted, TextDelta*, Finished; see Backend."""
        if request.model != self._card.id or request.digest not in (None, CHAIN_DIGEST):
            raise ModelNotFound(f"The model {request.model!r} with this digest is not served here.", "model")
        check_features(request, FEATURES)
        asked_tokens = prompt_tokens(request.prompt)
        max_tokens = tokens_to_generate(asked_tokens, request.max_tokens, CONTEXT_LENGTH, request.clamp_max_tokens)
        if len(request.resume_tokens) > max_tokens:
            raise InvalidRequest("There are more tokens to go on after than may be generated.", "resume_tokens")
        yield Accepted(asked_tokens, CHAIN_DIGEST)
        self.running += 1
        self._note(request, True)
        try:
            async for event in self._say(request, asked_tokens, max_tokens):
                yield event
        finally:
            self.running -= 1
            self._note(request, False)

    async def close(self) -> None:
        """Nothing to free."""

    async def _say(
        self, request: GenerateRequest, asked_tokens: int, max_tokens: int
    ) -> AsyncGenerator[BackendEvent, None]:
        emitter = Emitter(_Words(), request.stop)
        emitter.replay(request.resume_tokens)
        count = len(request.resume_tokens)
        ids = chain_ids(asked(request.prompt), request.sampling.seed, request.resume_tokens)
        while count < max_tokens and not emitter.is_stopped:
            await asyncio.sleep(self._delay_s)
            count += 1
            if delta := emitter.feed(next(ids)):
                yield delta
        for delta in emitter.flush():
            yield delta
        yield Finished("stop" if emitter.is_stopped else "length", Usage(asked_tokens, count))


class _Words:
    """Its decoder."""

    def feed(self, token_id: int) -> Piece:
        return Piece((token_id,), word_of(token_id))

    def flush(self) -> None:
        return None


def honest_delta(token_id: int) -> TextDelta:
    """One token as an honest worker sends it, for those who are honest only at first."""
    return TextDelta(word_of(token_id), (token_id,))


def finished(request: GenerateRequest, tokens: int) -> Finished:
    """The end of an answer of so many tokens, as an honest worker sends it."""
    return Finished("length", Usage(prompt_tokens(request.prompt), tokens))
