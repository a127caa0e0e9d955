"""What two dialects have in common: an offer (a model that a server has), a call (a request in its words), a reader.

Pure: knows nothing of HTTP sessions or of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from p2pnet.errors import FeatureMissing, InvalidRequest, WorkerFailed
from p2pnet.features import check_features
from p2pnet.messages import (
    MAX_TOOLS,
    ChatPrompt,
    FinishReason,
    GenerateRequest,
    Message,
    ModelId,
    Prompt,
    TextPrompt,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    Usage,
)
from p2pnet.records import Label, ModelCard

DIGEST_DOMAIN = "p2pnet/upstream/1"

DEFAULT_CONTEXT_LENGTH = 4096
"""Of a server that does not say: what llama.cpp and Ollama give a model when nobody asks for more."""

_UNQUANTIZED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

UNKNOWN = "unknown"
"""The label of a quantization or dtype that the server does not tell."""

MAX_SEED = 1 << 31
"""llama.cpp keeps 32 bits of a seed, and takes the largest for "any"; some servers fail beyond."""

MAX_CONTEXT_LENGTH = 1 << 24
"""What a record may hold."""

MAX_COUNT = 1 << 31
MAX_NAME_CHARS = 128
"""Of a tool, or a call of one."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a stranger's JSON may raise."""

BYTES_PER_TOKEN = 4
"""Of English text in today's vocabularies; only for the estimate."""

TOKENS_PER_MESSAGE = 4
"""Role and separators, in most chat templates."""


@dataclass(frozen=True)
class Offer:
    """A model that an upstream server has, and what can be asked of it on each of its two endpoints."""

    card: ModelCard
    chat: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()
    stop: tuple[str, ...] = ()
    """Stop strings of the model itself, which those of a request would replace there."""
    thinks: bool = False
    flavour: str = ""

    def features_for(self, prompt: Prompt) -> frozenset[str]:
        return self.chat if isinstance(prompt, ChatPrompt) else self.text


@dataclass(frozen=True)
class Call:
    """What is posted to the server."""

    path: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """What one line of a server's stream adds to one choice."""

    choice: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    stop: str | None = None
    """The stop string that ended it, from servers that tell."""


class Reader(Protocol):
    """Reads one answer, line by line."""

    usage: Usage | None
    """What the server counted, once it has said so."""
    is_ended: bool
    """Whether the server has said that nothing follows."""

    def feed(self, line: bytes) -> Sequence[Piece]:
        """Raises WorkerFailed on what cannot be read, and on an error that the server reports."""


class Dialect(Protocol):
    """How one kind of server is spoken to."""

    def call(self, request: GenerateRequest, offer: Offer) -> Call:
        """Raises FeatureMissing or InvalidRequest for what cannot be said in its words."""

    def reader(self, request: GenerateRequest) -> Reader: ...


def upstream_digest(kind: str, name: str, root: str = "", declared: str = "") -> str:
    """The digest of a model whose weights we never see.

    It promises less than our own: two workers have the same one when their servers are of the same kind and *say* the
    same of the model: its name, what it was made from (`root`), and the server's own digest or sizes (`declared`).
    Ollama's digest covers weights, template and parameters, so there it means the same files as long as the server is
    honest; with OpenAI's API it means the same name. It never equals the digest of a model that we load ourselves.
    """
    parts = msgspec.json.encode([DIGEST_DOMAIN, kind, name, root, declared])
    return "sha256:" + sha256(parts).hexdigest()


def is_model_id(name: str) -> bool:
    """Whether a model can be announced under the name that its server has for it."""
    return _fits(name, ModelId)


def precision(level: str | None) -> tuple[str, str]:
    """Quantization and dtype, in our words, out of a file type of GGUF."""
    if level in _UNQUANTIZED:
        return "none", _UNQUANTIZED[level]
    return (level if level and _fits(level, Label) else UNKNOWN), UNKNOWN


def _fits(value: str, annotated: Any) -> bool:
    try:
        msgspec.convert(value, annotated)
    except msgspec.ValidationError:
        return False
    return True


def check_offer(request: GenerateRequest, offer: Offer) -> None:
    """Raises FeatureMissing when this endpoint of the server cannot do all that the request needs."""
    check_features(request, offer.features_for(request.prompt))


REASONING_BEGIN = "<think>\n"
REASONING_END = "\n</think>\n\n"
"""Servers that take a model's reasoning out of its text give it back so: as most such models write it themselves, and
as our own engine passes it on."""


def continued(request: GenerateRequest) -> GenerateRequest:
    """The request with its `resume_text` in the prompt: after a text, or as the last message of a chat.

    Of that message space at the end is left out, as templates do: the answer may bring it again, see `space_after`.
    Raises FeatureMissing for what a server would begin anew: a form, a call, reasoning that it takes out of the text.
    """
    text, prompt = request.resume_text, request.prompt
    if not text:
        return request
    if request.response_format is not None:
        raise FeatureMissing("The server cannot go on with an answer that has a form.", "resume_text")
    if isinstance(prompt, TextPrompt):
        return msgspec.structs.replace(request, prompt=msgspec.structs.replace(prompt, text=prompt.text + text))
    if not isinstance(prompt, ChatPrompt):
        raise FeatureMissing("The server cannot go on with a text after token ids.", "resume_text")
    if prompt.tools and prompt.tool_choice == "required":
        raise FeatureMissing("The server cannot go on with an answer that has to call a tool.", "resume_text")
    if text.lstrip().startswith(REASONING_BEGIN.strip()):
        raise FeatureMissing("The server cannot go on with an answer that has reasoning in it.", "resume_text")
    if not text.strip():
        return request
    messages = (*prompt.messages, Message("assistant", text.rstrip()))
    return msgspec.structs.replace(request, prompt=msgspec.structs.replace(prompt, messages=messages))


def space_after(request: GenerateRequest) -> str:
    """What `continued` has left out."""
    text = request.resume_text if isinstance(request.prompt, ChatPrompt) else ""
    return text[len(text.rstrip()) :]


def small_seed(seed: int) -> int:
    """Seeds that fit are passed on as they are."""
    return seed % MAX_SEED


def estimated_prompt_tokens(prompt: Prompt) -> int:
    """About how many tokens a prompt has; the server tells the true number only when it has finished."""
    match prompt:
        case ChatPrompt(messages, tools):
            texts = [message.content for message in messages]
            texts += [call.arguments for message in messages for call in message.tool_calls]
            texts += [tool.description + tool.parameters for tool in tools]
            return TOKENS_PER_MESSAGE * len(messages) + sum(map(_text_tokens, texts))
        case TextPrompt(text, suffix):
            return max(1, _text_tokens(text + suffix))
        case _:
            return len(prompt.token_ids)


def _text_tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def usage_of(prompt_tokens: int | None, completion_tokens: int | None, cached_tokens: int = 0) -> Usage | None:
    """What a server counted; None for what it does not tell, or cannot be."""
    if prompt_tokens is None or completion_tokens is None:
        return None
    if not all(0 <= count < MAX_COUNT for count in (prompt_tokens, completion_tokens, cached_tokens)):
        return None
    return Usage(prompt_tokens, completion_tokens, min(cached_tokens, prompt_tokens))


def check_tool_call(index: int, call_id: str | None, name: str | None) -> None:
    """Raises WorkerFailed for a tool call that fits no event of ours."""
    if not 0 <= index < MAX_TOOLS or len(call_id or "") > MAX_NAME_CHARS or len(name or "") > MAX_NAME_CHARS:
        raise WorkerFailed("the upstream server sent a tool call that cannot be passed on")


def json_object(text: str, what: str, param: str) -> dict[str, Any]:
    """JSON text that must be an object. Raises InvalidRequest."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"{what} is not valid JSON.", param) from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is not a JSON object.", param)
    return value


def tool_definition(tool: Tool) -> dict[str, Any]:
    """As OpenAI and Ollama both have it."""
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


def unreadable(error: Exception) -> WorkerFailed:
    failed = WorkerFailed("the upstream server sent what cannot be read")
    failed.__cause__ = error
    return failed
