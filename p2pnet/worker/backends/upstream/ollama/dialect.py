"""Ollama's own API: our requests in its words, its lists of models as offers. Pure. `ollama_reader` reads its answers.

Its `/v1` would do less: no context length, no way to forbid that a long prompt is cut in silence.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from p2pnet import features
from p2pnet.errors import FeatureMissing
from p2pnet.messages import ChatPrompt, GenerateRequest, JsonFormat, Message, TextPrompt
from p2pnet.records import ModelCard
from p2pnet.worker.backends.upstream.dialect import (
    DEFAULT_CONTEXT_LENGTH,
    MAX_CONTEXT_LENGTH,
    UNREADABLE,
    Call,
    Offer,
    Reader,
    check_offer,
    continued,
    json_object,
    offered_tools,
    precision,
    small_seed,
    unreadable,
    upstream_digest,
)
from p2pnet.worker.backends.upstream.ollama.reader import OllamaReader

KIND = "ollama"
VERSION_PATH = "/api/version"
TAGS_PATH = "/api/tags"
RUNNING_PATH = "/api/ps"
SHOW_PATH = "/api/show"
CHAT_PATH = "/api/chat"
TEXT_PATH = "/api/generate"

LOGPROBS_SINCE = (0, 12, 11)


_CONSTRAINTS = frozenset({features.JSON, features.JSON_SCHEMA})
"""No `penalties` and no `sampling`: models that run on its own engine ignore the penalties in silence
(ollama/ollama issue 15783)."""


class _Details(msgspec.Struct):
    quantization_level: str | None = None


class Tag(msgspec.Struct):
    """A model in its list. `remote_host` is set for those that run on somebody else's servers."""

    name: str
    digest: str = ""
    remote_host: str | None = None
    remote_model: str | None = None

    @property
    def is_remote(self) -> bool:
        return bool(self.remote_host or self.remote_model)


class _Tags(msgspec.Struct):
    models: list[Tag] | None = None


class Shown(msgspec.Struct):
    """What it shows of one model."""

    model_info: dict[str, Any] | None = None
    parameters: str | None = None
    details: _Details | None = None
    template: str | None = None
    capabilities: list[str] | None = None
    """None before version 0.6.4."""
    remote_host: str | None = None


class _Running(msgspec.Struct):
    name: str
    context_length: int | None = None


class _RunningModels(msgspec.Struct):
    models: list[_Running] | None = None


class _Version(msgspec.Struct):
    version: str


def parse_version(body: bytes) -> tuple[int, ...] | None:
    """None where this is not Ollama."""
    try:
        version = msgspec.json.decode(body, type=_Version).version
    except UNREADABLE:
        return None
    return tuple(int(number[:9]) for number in re.findall(r"\d+", version)[:3])


def parse_tags(body: bytes) -> list[Tag]:
    """Raises WorkerFailed."""
    return _decode(body, _Tags).models or []


def parse_shown(body: bytes) -> Shown:
    """Raises WorkerFailed."""
    shown: Shown = _decode(body, Shown)
    return shown


def parse_running(body: bytes) -> dict[str, int]:
    """The context length that each loaded model really has, by name. Raises WorkerFailed."""
    running = _decode(body, _RunningModels).models or []
    return {model.name: model.context_length for model in running if model.context_length and model.context_length > 0}


def _decode(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise unreadable(error) from error


def offer_of(tag: Tag, shown: Shown, running_context: int | None, version: tuple[int, ...]) -> Offer | None:
    """The offer of one model; None when it does not generate (an embedding model) or runs elsewhere.

    `running_context` is the context it was last seen loaded with.
    """
    capabilities = frozenset(shown.capabilities) if shown.capabilities is not None else frozenset({"completion"})
    if "completion" not in capabilities or shown.remote_host:
        return None
    extras = _CONSTRAINTS | ({features.LOGPROBS} if version >= LOGPROBS_SINCE else frozenset())
    chat = extras | {features.CHAT} | ({features.TOOLS} if "tools" in capabilities else frozenset())
    text = extras | {features.TEXT} | ({features.FIM} if "insert" in capabilities else frozenset())
    if "thinking" not in capabilities and _continues(shown.template or ""):
        chat, text = chat | {features.RESUME_TEXT}, text | {features.RESUME_TEXT}
    quantization, dtype = precision(shown.details.quantization_level if shown.details else None)
    card = ModelCard(
        id=tag.name,
        digest=upstream_digest(KIND, tag.name, declared=tag.digest),
        context_length=_context_length(shown, running_context),
        quantization=quantization,
        dtype=dtype,
        features=tuple(sorted(chat | text)),
    )
    return Offer(card, chat, text, _own_stops(shown), thinks="thinking" in capabilities, flavour=KIND)


def _continues(template: str) -> bool:
    """Whether the template leaves a chat's last message, if an assistant's, open: the model goes on with it.

    That is what Ollama's maintainers advise (ollama/ollama issue 6778), and most templates written for it do so: those
    that do not end the last message, and the older ones, for a prompt and a response, which Ollama cuts after the
    response. Models that it renders without a template are not known to.
    """
    if ".Messages" in template:
        return re.search(r"\{\{-?\s*if\s+not\s+\$last\b", template) is not None
    return ".Response" in template


def _context_length(shown: Shown, running_context: int | None) -> int:
    """What it serves, which is seldom what the model could do: its own default unless the model's file says more."""
    told = running_context or _own_context(shown) or DEFAULT_CONTEXT_LENGTH
    lengths = [
        value
        for name, value in (shown.model_info or {}).items()
        if name.endswith(".context_length") and isinstance(value, int) and value > 0
    ]
    return min(told, *lengths, MAX_CONTEXT_LENGTH)


def _own_context(shown: Shown) -> int | None:
    found = re.search(r"^num_ctx\s+(\d{1,9})\s*$", shown.parameters or "", re.MULTILINE)
    return (int(found[1]) or None) if found else None


def _own_stops(shown: Shown) -> tuple[str, ...]:
    """`stop` lines of the model's parameters, each a quoted string."""
    stops = []
    for quoted in re.findall(r'^stop\s+(".*")\s*$', shown.parameters or "", re.MULTILINE):
        try:
            stops.append(msgspec.json.decode(quoted, type=str))
        except UNREADABLE:
            stops.append(quoted[1:-1])
    return tuple(stops)


class OllamaDialect:
    """Speaks to `/api/chat` and `/api/generate`, always streaming."""

    def call(self, request: GenerateRequest, offer: Offer) -> Call:
        check_offer(request, offer)
        request = continued(request)
        body: dict[str, Any] = {
            "model": request.model,
            "stream": True,
            "truncate": False,  # a prompt that does not fit is an error, not a shorter prompt
            "shift": False,  # nor is its beginning forgotten when the answer fills the context
            "options": _options(request, offer),
        }
        if request.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": request.logprobs}
        if request.response_format is not None:
            body["format"] = (
                "json"
                if isinstance(request.response_format, JsonFormat)
                else json_object(request.response_format.schema, "The schema", "response_format")
            )
            if offer.thinks:
                body["think"] = False  # the text is to be JSON, from its first character on
        match request.prompt:
            case ChatPrompt() as prompt:
                return Call(CHAT_PATH, body | _chat(prompt))
            case TextPrompt() as prompt:
                return Call(TEXT_PATH, body | _text(prompt))
            case _:
                raise AssertionError("the features say that it takes no token ids")

    def reader(self, request: GenerateRequest) -> Reader:
        return OllamaReader(request)


def _options(request: GenerateRequest, offer: Offer) -> dict[str, Any]:
    """Said in full: its own defaults, and those in a model's file, would change the distribution."""
    sampling = request.sampling
    options: dict[str, Any] = {
        "seed": small_seed(sampling.seed),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "num_predict": request.max_tokens or offer.card.context_length,
    }
    if request.stop:
        options["stop"] = [*offer.stop, *request.stop]
    return options


def _text(prompt: TextPrompt) -> dict[str, Any]:
    if not prompt.text:
        raise FeatureMissing("Ollama takes an empty prompt for an order to load the model.", "prompt")
    if prompt.suffix:  # the template puts the two together
        return {"prompt": prompt.text, "suffix": prompt.suffix}
    return {"prompt": prompt.text, "raw": True}


def _chat(prompt: ChatPrompt) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": _messages(prompt.messages)}
    if prompt.tools and prompt.tool_choice == "required":
        raise FeatureMissing("Ollama cannot be made to call a tool.", "tool_choice")
    if tools := offered_tools(prompt):
        if not prompt.parallel_tool_calls:
            raise FeatureMissing("Ollama cannot be held to one tool call.", "parallel_tool_calls")
        body["tools"] = tools
    return body


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [_message(message, names) for message in messages]


def _message(message: Message, names: dict[str, str]) -> dict[str, Any]:
    """Its tool calls have objects where ours have text, and its tools' answers are matched by the tool's name."""
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "function": {
                    "name": call.name,
                    "arguments": json_object(call.arguments or "{}", "A tool call's arguments", "messages"),
                },
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
        if name := message.name or names.get(message.tool_call_id):
            said["tool_name"] = name
    return said
