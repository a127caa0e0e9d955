"""Defines what a dialect is, and holds what both need to put a request into a server's words.

Pure: knows nothing of HTTP sessions or of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from p2pnet.errors import FeatureMissing, InvalidRequest
from p2pnet.features import check_features
from p2pnet.images import IMAGE_TOKENS
from p2pnet.messages import (
    ChatPrompt,
    FinishReason,
    GenerateRequest,
    Message,
    Prompt,
    TextPrompt,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    Usage,
)
from p2pnet.thought_tags import begins_with_thoughts
from p2pnet.worker.backends.upstream.offer import Offer

MAX_SEED = 1 << 31
"""llama.cpp keeps 32 bits of a seed, and takes the largest for "any"; some servers fail beyond."""

BYTES_PER_TOKEN = 4
"""Of English text in today's vocabularies; only for the estimate."""

TOKENS_PER_MESSAGE = 4
"""Role and separators, in most chat templates."""


@dataclass(frozen=True)
class UpstreamCall:
    """What is posted to the server."""

    path: str
    body: dict[str, Any]


@dataclass(frozen=True)
class AnswerPiece:
    """What one line of a server's stream adds to one choice."""

    choice: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    stop: str | None = None
    """The stop string that ended it, from servers that tell."""
    tokens_so_far: int | None = None
    """How many tokens the choice has by now, from servers that count as they go."""


class AnswerReader(Protocol):
    """Reads one answer, line by line."""

    is_ended: bool
    """Whether the server has said that nothing follows."""

    @property
    def usage(self) -> Usage | None:
        """What the server counted, once it has said so."""

    def feed(self, line: bytes) -> Sequence[AnswerPiece]:
        """The pieces that one line has. Raises WorkerFailed on what cannot be read, and on an error that the server
        reports."""


class Dialect(Protocol):
    """How one kind of server is spoken to."""

    def call(self, request: GenerateRequest, offer: Offer) -> UpstreamCall:
        """The request in the server's words. Raises FeatureMissing or InvalidRequest for what they cannot say."""

    def reader(self, request: GenerateRequest) -> AnswerReader: ...


def check_offer(request: GenerateRequest, offer: Offer) -> None:
    """Raises FeatureMissing when this endpoint of the server cannot do all that the request needs."""
    check_features(request, offer.features_for(request.prompt))


REASONING_BEGIN = "<think>\n"
REASONING_END = "\n</think>\n\n"
"""Servers that take a model's reasoning out of its text give it back so: as most such models write it themselves, and
as our own engine passes it on."""


def continued(request: GenerateRequest) -> GenerateRequest:
    """The request with its `resume_text` in the prompt: after a text, or as the last message of a chat.

    Space at the end of that message is left out, as templates do: the answer may bring it again, see `space_after`. An
    answer that has a form is begun anew, since a server's grammar knows only what it generates: whoever reads it leaves
    out what was said, and ends it. Raises FeatureMissing for others that a server would begin anew: those with a call,
    or with reasoning that it takes out of the text.
    """
    text, prompt = request.resume_text, request.prompt
    if not text:
        return request
    if is_begun_anew(request):
        return msgspec.structs.replace(request, resume_text="", max_tokens=None, clamp_max_tokens=False)
    if isinstance(prompt, TextPrompt):
        return msgspec.structs.replace(request, prompt=msgspec.structs.replace(prompt, text=prompt.text + text))
    if not isinstance(prompt, ChatPrompt):
        raise FeatureMissing("The server cannot go on with a text after token ids.", "resume_text")
    if prompt.tools and prompt.tool_choice == "required":
        raise FeatureMissing("The server cannot go on with an answer that has to call a tool.", "resume_text")
    if begins_with_thoughts(text):
        raise FeatureMissing("The server cannot go on with an answer that has reasoning in it.", "resume_text")
    if not text.strip():
        return request
    messages = (*prompt.messages, Message("assistant", text.rstrip()))
    return msgspec.structs.replace(request, prompt=msgspec.structs.replace(prompt, messages=messages))


def is_begun_anew(request: GenerateRequest) -> bool:
    """Whether the server begins anew with an answer that has begun elsewhere."""
    return bool(request.resume_text) and request.response_format is not None


def space_after(request: GenerateRequest) -> str:
    """The space at the end of `resume_text` that `continued` has left out."""
    text = request.resume_text if isinstance(request.prompt, ChatPrompt) else ""
    return text[len(text.rstrip()) :]


def clamped(request: GenerateRequest, context_length: int) -> GenerateRequest:
    """The request without a `max_tokens` that may be clamped and may not fit: servers refuse what does not. Whoever
    reads the answer ends it there all the same."""
    if not request.clamp_max_tokens or request.max_tokens is None:
        return request
    most_prompt_tokens = BYTES_PER_TOKEN * estimated_prompt_tokens(continued(request).prompt)
    if most_prompt_tokens + request.max_tokens <= context_length:
        return request
    return msgspec.structs.replace(request, max_tokens=None)


def small_seed(seed: int) -> int:
    """A seed that all servers take. Those that fit are passed on as they are."""
    return seed % MAX_SEED


def estimated_prompt_tokens(prompt: Prompt) -> int:
    """An estimate of the prompt's tokens: the server tells the true number only when it has finished."""
    match prompt:
        case ChatPrompt(messages, tools):
            texts = [message.content for message in messages]
            texts += [call.arguments for message in messages for call in message.tool_calls]
            texts += [tool.description + tool.parameters for tool in tools]
            images = sum(len(message.images) for message in messages)
            return TOKENS_PER_MESSAGE * len(messages) + IMAGE_TOKENS * images + sum(map(_text_tokens, texts))
        case TextPrompt(text, suffix):
            return max(1, _text_tokens(text + suffix))
        case _:
            return len(prompt.token_ids)


def _text_tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def json_object(text: str, what: str, param: str) -> dict[str, Any]:
    """Parses JSON text that must be an object. Raises InvalidRequest."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"{what} is not valid JSON.", param) from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is not a JSON object.", param)
    return value


def tool_definition(tool: Tool) -> dict[str, Any]:
    """The definition of a tool, which OpenAI and Ollama write alike."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = json_object(tool.parameters, f"The schema of the tool {tool.name!r}", "tools")
    return {"type": "function", "function": function}


def offered_tools(prompt: ChatPrompt) -> list[dict[str, Any]]:
    """The tools that the model may call: none, all, or the one that it must."""
    if prompt.tool_choice == "none":
        return []
    return [tool_definition(tool) for tool in prompt.tools if prompt.required_tool in (None, tool.name)]
