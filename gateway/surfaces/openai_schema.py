"""OpenAI request bodies, and their pure translation into one GenerateRequest.

Types are checked here, strictly; the bounds of numbers live in `p2pnet.messages` and are checked against it. Unknown
fields are ignored. Known fields that would change the answer and cannot be honoured are refused by name.
Knows nothing of HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2pnet.errors import InvalidRequest, ModelNotFound
from p2pnet.messages import MAX_MESSAGES, ChatPrompt, GenerateRequest, Message, Prompt, TextPrompt, TokenPrompt

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for /v1/completions; its chat has none."""

SEED_LIMIT = 1 << 63
"""OpenAI's seeds may be negative or large; ours are 63 bits. Equal seeds stay equal."""

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Chat templates know no developer: it is OpenAI's newer word for system."""

_SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class ContentPart(_Body):
    type: str
    text: str | None = None


class ChatMessage(_Body):
    role: str
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None
    audio: Any = None


class StreamOptions(_Body):
    include_usage: bool | None = None


class ResponseFormat(_Body):
    type: str


class _Generation(_Body):
    """What chat and completions have in common. `stop_token_ids`, `ignore_eos`, `top_k`, `min_p` and
    `repetition_penalty` are vLLM's extensions."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = None
    ignore_eos: bool | None = None
    n: int | None = None
    logit_bias: dict[str, Any] | None = None
    user: str | None = None

    @property
    def is_stream(self) -> bool:
        return bool(self.stream)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatBody(_Generation):
    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[str], Field(fail_fast=True)] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None


class CompletionBody(_Generation):
    prompt: str | list[Any]
    best_of: int | None = None
    logprobs: int | None = None
    suffix: str | None = None
    echo: bool | None = None


Body = TypeVar("Body", bound=_Body)


def parse_chat(raw: bytes) -> ChatBody:
    """Raises InvalidRequest, which names the field."""
    body = _validated(ChatBody, raw)
    _refuse(
        body,
        ("logprobs", bool(body.logprobs)),
        ("top_logprobs", bool(body.top_logprobs)),
        ("tools", bool(body.tools) and body.tool_choice != "none"),
        ("tool_choice", body.tool_choice not in (None, "none", "auto")),
        ("functions", bool(body.functions) and body.function_call != "none"),
        ("function_call", body.function_call not in (None, "none", "auto")),
        ("response_format", body.response_format is not None and body.response_format.type != "text"),
        ("modalities", body.modalities not in (None, [], ["text"])),
        ("audio", body.audio is not None),
        ("web_search_options", body.web_search_options is not None),
    )
    return body


def parse_completion(raw: bytes) -> CompletionBody:
    """Raises InvalidRequest, which names the field."""
    body = _validated(CompletionBody, raw)
    _refuse(
        body,
        ("best_of", (body.best_of or 1) > 1),
        ("logprobs", body.logprobs is not None),
        ("suffix", bool(body.suffix)),
        ("echo", bool(body.echo)),
    )
    return body


def chat_request(body: ChatBody, request_id: str, make_seed: Callable[[], int]) -> GenerateRequest:
    messages = tuple(_message(message, f"messages[{i}]") for i, message in enumerate(body.messages))
    limit_name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    return _request(body, ChatPrompt(messages), getattr(body, limit_name), limit_name, request_id, make_seed)


def completion_request(body: CompletionBody, request_id: str, make_seed: Callable[[], int]) -> GenerateRequest:
    limit = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    return _request(body, _prompt(body.prompt), limit, "max_tokens", request_id, make_seed)


def _refuse(body: _Generation, *fields: tuple[str, bool]) -> None:
    common = (
        ("n", body.n not in (None, 1)),
        ("logit_bias", bool(body.logit_bias)),
        ("stream_options", body.stream_options is not None and not body.is_stream),
    )
    for name, is_used in common + fields:
        if is_used:
            needs_stream = name == "stream_options"
            raise InvalidRequest(f"{name}: {'needs stream to be true' if needs_stream else 'not supported here'}", name)


def _request(
    body: _Generation,
    prompt: Prompt,
    limit: int | None,
    limit_name: str,
    request_id: str,
    make_seed: Callable[[], int],
) -> GenerateRequest:
    given = ((name, getattr(body, name)) for name in _SAMPLING_FIELDS)
    sampling: dict[str, Any] = {name: value for name, value in given if value is not None}
    sampling["seed"] = make_seed() if body.seed is None else body.seed % SEED_LIMIT
    if sampling.get("top_k") == -1:  # vLLM's other way to say off
        sampling["top_k"] = 0
    fields = {
        "request_id": request_id,
        "model": body.model,
        "prompt": prompt,
        "sampling": sampling,
        "max_tokens": limit,
        "stop": (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        "stop_token_ids": tuple(body.stop_token_ids or ()),
        "ignore_eos": bool(body.ignore_eos),
    }
    try:
        return msgspec.convert(fields, GenerateRequest)
    except msgspec.ValidationError as error:
        raise _out_of_bounds(error, body.model, limit_name) from error


def _message(message: ChatMessage, where: str) -> Message:
    role = ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(f"{where}.role: one of {', '.join(ROLES)}", f"{where}.role")
    for name in ("tool_calls", "function_call", "audio"):
        if getattr(message, name):
            raise InvalidRequest(f"{where}.{name}: not supported here", f"{where}.{name}")
    return Message(role, _content(message.content, f"{where}.content"))


def _content(content: str | Sequence[ContentPart] | None, where: str) -> str:
    if content is None:
        raise InvalidRequest(f"{where}: required", where)
    if isinstance(content, str):
        return content
    for i, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise InvalidRequest(f"{where}[{i}]: only text parts are supported here", where)
    return "".join(part.text or "" for part in content)


def _prompt(prompt: str | list[Any]) -> TextPrompt | TokenPrompt:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise InvalidRequest("prompt: only one prompt per request is supported here", "prompt")
        prompt = prompt[0]
    if isinstance(prompt, str):
        return TextPrompt(prompt)
    try:
        return msgspec.convert({"token_ids": prompt}, TokenPrompt)
    except msgspec.ValidationError as error:
        raise InvalidRequest("prompt: a string, or a list of token ids", "prompt") from error


def _out_of_bounds(error: msgspec.ValidationError, model: str, limit_name: str) -> InvalidRequest | ModelNotFound:
    """msgspec says `Expected ... - at `$.sampling.top_p``; OpenAI's clients know the last of these names."""
    reason, _, path = str(error).partition(" - at ")
    names = re.findall(r"\.(\w+)", path)
    param = names[-1] if names else None
    if param == "model":
        return ModelNotFound(f"The model {model[:128]!r} does not exist.", "model")
    if param == "max_tokens":
        param = limit_name
    return InvalidRequest(f"{param}: {_lowered(reason)}", param)


def _validated(model: type[Body], raw: bytes) -> Body:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        # In a union the branch that got deepest is the one that was meant.
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        first = errors[0]["loc"][:1]
        found = max((e for e in errors if e["loc"][:1] == first), key=lambda e: len(e["loc"]))
        path = _path(found["loc"])
        reason = _lowered(found["msg"])
        # `param` is a field: `stop`, not the second entry of `stop`, which the message names.
        raise InvalidRequest(f"{path}: {reason}" if path else reason, re.sub(r"\[\d+\]$", "", path) or None) from error


def _path(location: Sequence[str | int]) -> str:
    """`messages[0].content`, from pydantic's location without the names of union branches."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif "[" not in part and part not in ("str", "int"):
            path += f".{part}"
    return path.removeprefix(".")


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
