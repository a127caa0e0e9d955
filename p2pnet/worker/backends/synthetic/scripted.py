"""Answers as a script says, token by token: texts, JSON and calls of tools.

For tests of everything between a client and a model, ours and other people's. Knows nothing of torch.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from p2pnet.features import CHAT, ENGINE, IMAGES, RESUME_TEXT, TOOLS
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    FinishReason,
    GenerateRequest,
    Prompt,
    TextDelta,
    TextPrompt,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
    choice_seed,
)
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.backends.served import check_generate
from p2pnet.worker.backends.synthetic.counting import counted
from p2pnet.worker.backends.synthetic.numbered_tokens import NumberedTokens, check_first_tokens
from p2pnet.worker.backends.synthetic.one_model import OneModel
from p2pnet.worker.engine.limits import tokens_to_generate
from p2pnet.worker.text.emission import Emitter
from p2pnet.worker.text.tool_calls.parser import call_id

SCRIPTED_DIGEST = "sha256:" + sha256(b"p2pnet/scripted/1").hexdigest()

FEATURES = (*(feature for feature in ENGINE if feature != RESUME_TEXT), CHAT, TOOLS, IMAGES)
"""All that a request may ask for is taken. What a script says is its own affair: sampling changes it only where the
script looks at the seed, and a schema only where the script follows it."""

_TOKEN = re.compile(r"\s*\S{1,8}|\s+$")
"""A word with the space before it, or eight letters of it, so that JSON without spaces has tokens too."""


@dataclass(frozen=True)
class Call:
    """One call of a tool. `arguments` is JSON text, and need not be valid."""

    name: str
    arguments: str = "{}"


@dataclass(frozen=True)
class Said:
    """One answer: a text, and the calls that come after it."""

    text: str = ""
    calls: tuple[Call, ...] = ()


Script = Callable[[GenerateRequest], Said]
"""What is answered to a request; a function of that alone, or answers could not be resumed. Of several choices each is
asked for as one request with its own seed."""


def in_turns(*answers: Said) -> Script:
    """A script that gives the first answer to a new chat, the second one after one turn of the assistant, and so on.
    From then on it gives the last one."""

    def script(request: GenerateRequest) -> Said:
        prompt = request.prompt
        turns = [m for m in prompt.messages if m.role == "assistant"] if isinstance(prompt, ChatPrompt) else []
        return answers[min(len(turns), len(answers) - 1)]

    return script


class ScriptedBackend(OneModel):
    """Plays `script`. A token's id is its index in the answer, calls included.

    `gate`, when given, is awaited with a token's index before it: a test holds a generation there, or lets it fail.
    """

    def __init__(
        self,
        script: Script,
        name: str = "scripted",
        context_length: int = 4096,
        gate: Callable[[int], Awaitable[None]] | None = None,
        digest: str = SCRIPTED_DIGEST,
    ) -> None:
        super().__init__(ModelCard(name, digest, context_length, features=FEATURES))
        self._script = script
        self._gate = gate
        self.requests: list[GenerateRequest] = []
        """All that were accepted."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """Yields Accepted, TextDelta*, Finished; see Backend. Choices take turns, token by token."""
        check_generate(request, self._card)
        prompt_tokens = _count_tokens(request.prompt, self._card.context_length)
        limit = tokens_to_generate(
            prompt_tokens, request.max_tokens, self._card.context_length, request.clamp_max_tokens
        )
        answers = [_ScriptedAnswer(request, choice, self._said(request, choice), limit) for choice in range(request.n)]
        self.requests.append(request)
        yield Accepted(prompt_tokens, self._card.digest)
        for choice in range(request.n if request.echo else 0):
            yield _prompt_echo(request, choice)
        under_way = [answer.deltas() for answer in answers]
        while under_way:
            for deltas in tuple(under_way):
                step = next(deltas, None)
                if step is None:
                    under_way.remove(deltas)
                elif isinstance(step, TextDelta):
                    yield step
                elif self._gate is not None:
                    await self._gate(step)
        reasons = [answer.reason for answer in answers]
        usage = Usage(prompt_tokens, sum(answer.count for answer in answers))
        yield Finished(reasons[0], usage, other_reasons=tuple(reasons[1:]))

    def _said(self, request: GenerateRequest, choice: int) -> Said:
        """What the script says. A chat without parallel calls gets one call of it."""
        sampling = msgspec.structs.replace(request.sampling, seed=choice_seed(request.sampling.seed, choice))
        said = self._script(msgspec.structs.replace(request, sampling=sampling, n=1, resume_tokens=()))
        is_parallel = isinstance(request.prompt, ChatPrompt) and request.prompt.parallel_tool_calls
        return said if is_parallel else Said(said.text, said.calls[:1])


class _ScriptedAnswer:
    """One choice of a request. `count` and `reason` are known once `deltas` has ended."""

    def __init__(self, request: GenerateRequest, choice: int, said: Said, limit: int) -> None:
        self._request = request
        self._choice = choice
        self._texts = _TOKEN.findall(said.text)
        self._calls = list(_call_tokens(request, choice, said))
        self._limit = limit
        self._resumed = len(request.resume_tokens)
        tokens = len(self._texts) + len(self._calls)
        check_first_tokens(request.resume_tokens, min(limit, tokens))
        self.count = self._resumed
        self.reason: FinishReason = "length" if tokens >= limit else "tool_calls" if said.calls else "stop"

    def deltas(self) -> Iterator[int | TextDelta]:
        """Yields each token's index before the token is computed, and the deltas that tokens complete."""
        is_stopped = yield from self._say_text()
        if is_stopped:
            self.reason = "stop"
            return
        first = len(self._texts)
        while self.count < min(self._limit, first + len(self._calls)):
            token_id = self.count
            yield token_id
            self.count += 1
            piece = self._calls[token_id - first]
            token = (piece.name or "") + piece.arguments
            yield TextDelta("", (token_id,), self._choice, self._logprobs(token_id, token), (piece,))

    def _say_text(self) -> Generator[int | TextDelta, None, bool]:
        """Says the text. Returns whether a stop string or a stop token has ended the answer."""
        emitter = Emitter(NumberedTokens(self._texts), self._request.stop, choice=self._choice)
        end = min(self._limit, len(self._texts))
        emitter.replay(range(min(self.count, end)))
        while self.count < end and not emitter.is_stopped:
            token_id = self.count
            yield token_id
            self.count += 1
            if token_id in self._request.stop_token_ids:
                yield from emitter.flush()
                return True
            logprobs = self._logprobs(token_id, self._texts[token_id])
            if delta := emitter.feed(token_id, logprobs[0] if logprobs else None):
                yield delta
        if self._resumed <= end:
            yield from emitter.flush()
        return emitter.is_stopped

    def _logprobs(self, token_id: int, text: str) -> tuple[TokenLogprob, ...]:
        count = self._request.logprobs
        return () if count is None else (_logprob(token_id, text, count),)


def _call_tokens(request: GenerateRequest, choice: int, said: Said) -> Iterator[ToolCallDelta]:
    """The tokens of all calls: the first one of a call is its name, the others are its arguments. Ids are made as our
    engine makes them."""
    earlier = sum(len(m.tool_calls) for m in request.prompt.messages) if isinstance(request.prompt, ChatPrompt) else 0
    seed = choice_seed(request.sampling.seed, choice)
    for index, call in enumerate(said.calls):
        yield ToolCallDelta(index, call_id(seed, earlier + index), call.name)
        for arguments in _TOKEN.findall(call.arguments):
            yield ToolCallDelta(index, arguments=arguments)


def _prompt_echo(request: GenerateRequest, choice: int) -> TextDelta:
    tokens = _TOKEN.findall(_text(request.prompt))
    logprobs: list[TokenLogprob] = []
    if request.logprobs is not None:
        logprobs = [_logprob(token_id, token, request.logprobs) for token_id, token in enumerate(tokens)]
        logprobs[:1] = [TokenLogprob(0, token.encode(), None) for token in tokens[:1]]
    ids = tuple(range(len(tokens)))
    return TextDelta("".join(tokens), ids, choice, tuple(logprobs), is_prompt=True)


def _logprob(token_id: int, token: str, count: int) -> TokenLogprob:
    """A made-up log-probability: a token is likelier than all others, and less likely the further on it is in the
    answer."""
    logprob = -(token_id + 1) / 8
    others = (TopLogprob(1000 + i, b"?%d" % i, logprob - i) for i in range(1, count))
    top = (TopLogprob(token_id, token.encode(), logprob), *others) if count else ()
    return TokenLogprob(token_id, token.encode(), logprob, top)


def _text(prompt: Prompt) -> str:
    match prompt:
        case ChatPrompt(messages):
            return " ".join(message.content for message in messages)
        case TextPrompt(text):
            return text
        case _:
            return " ".join(map(str, prompt.token_ids))


def _count_tokens(prompt: Prompt, context_length: int) -> int:
    """The number of tokens in the whole prompt. An empty prompt counts as one, for the token it would begin with.

    Raises ContextOverflow as soon as it is too long: counting is done on the event loop."""
    return counted(_TOKEN, [_text(prompt)], context_length)
