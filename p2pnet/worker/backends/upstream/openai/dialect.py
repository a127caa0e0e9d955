"""OpenAI's API, as other servers speak it: our requests in its words, its list of models as offers.

Pure. `openai_reader` reads what it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from p2pnet import features
from p2pnet.errors import FeatureMissing, WorkerFailed
from p2pnet.messages import (
    ChatPrompt,
    GenerateRequest,
    JsonFormat,
    Message,
    ResponseFormat,
    TextPrompt,
    TokenPrompt,
)
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
from p2pnet.worker.backends.upstream.openai.flavours import FLAVOURS, LLAMA_CPP, VLLM, Flavour, flavour_of
from p2pnet.worker.backends.upstream.openai.reader import OpenAIReader

KIND = "openai"
MODELS_PATH = "/v1/models"
CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"
PROPS_PATH = "/props"
"""Of llama.cpp."""

_EMBEDS = re.compile(r"(^|[-_/.])embed(ding)?s?([-_/.:]|$)", re.IGNORECASE)
"""LM Studio and others list embedding models among the rest, and only the name tells."""

MIN_ROOM = 16
"""Tokens to generate when a prompt seems to fill the context: what OpenAI's API gives when nothing is said."""


class _Meta(msgspec.Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None
    n_params: int | None = None
    n_vocab: int | None = None
    size: int | None = None
    ftype: str | None = None


class _Model(msgspec.Struct):
    id: str
    owned_by: str | None = None
    root: str | None = None
    max_model_len: int | None = None
    context_length: int | None = None
    context_window: int | None = None
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _TemplateCaps(msgspec.Struct):
    supports_tools: bool = False
    supports_tool_calls: bool = False


class _Props(msgspec.Struct):
    chat_template_caps: _TemplateCaps | None = None


@dataclass(frozen=True)
class Abilities:
    """What a server can do that its list of models does not say."""

    has_chat: bool = True
    has_text: bool = True
    template_has_tools: bool = False
    """Of llama.cpp; others do not tell."""
    continues_chats: bool = False
    """Of llama.cpp, whose old versions begin a new message after a last one of the assistant's."""


_decode_props = msgspec.json.Decoder(_Props).decode
_decode_models = msgspec.json.Decoder(_Models, strict=False).decode


def parse_models(body: bytes, abilities: Abilities) -> list[Offer]:
    """The offers of a model list. Raises WorkerFailed."""
    try:
        models = _decode_models(body).data
    except UNREADABLE as error:
        raise unreadable(error) from error
    return [_offer(model, abilities) for model in models]


def parse_template_has_tools(body: bytes) -> bool:
    """Whether llama.cpp's `/props` says that the chat template has tools: without, it drops them in silence."""
    caps = _template_caps(body)
    return caps is not None and caps.supports_tools and caps.supports_tool_calls


def parse_continues_chats(body: bytes) -> bool:
    """Whether llama.cpp's `/props` is of a version that goes on with a chat's last message: those that tell what a
    template can do are all later than that."""
    return _template_caps(body) is not None


def _template_caps(body: bytes) -> _TemplateCaps | None:
    try:
        return _decode_props(body).chat_template_caps
    except UNREADABLE:
        return None


def _offer(model: _Model, abilities: Abilities) -> Offer:
    flavour = flavour_of(model.owned_by)
    chat = flavour.chat if abilities.has_chat else frozenset[str]()
    text = flavour.text if abilities.has_text else frozenset[str]()
    if _EMBEDS.search(model.id):
        chat = text = frozenset()
    if flavour is LLAMA_CPP and not abilities.template_has_tools:
        chat -= {features.TOOLS}
    if flavour is LLAMA_CPP and not abilities.continues_chats:
        chat, text = chat - {features.RESUME_TEXT}, text - {features.RESUME_TEXT}
    quantization, dtype = _precision(model.meta.ftype if model.meta else None)
    card = ModelCard(
        id=model.id,
        digest=upstream_digest(KIND, model.id, model.root or "", _declared(model.meta)),
        context_length=_context_length(model),
        quantization=quantization,
        dtype=dtype,
        features=tuple(sorted(chat | text)),
    )
    return Offer(card, chat, text, flavour=flavour.name)


def _precision(file_type: str | None) -> tuple[str, str]:
    """Quantization and dtype out of llama.cpp's words: `Q4_K - Medium`, `all F32`, `F16`."""
    words = re.findall(r"\w+", (file_type or "").removesuffix("(guessed)").removeprefix("all "))
    return precision("_".join(words))


def _declared(meta: _Meta | None) -> str:
    """What llama.cpp says of a file's size and shape: it tells quantizations of one model apart."""
    return f"{meta.n_params}/{meta.n_vocab}/{meta.size}" if meta else ""


def _context_length(model: _Model) -> int:
    told = (model.max_model_len, model.meta.n_ctx if model.meta else None, model.context_length, model.context_window)
    length = next((length for length in told if length and length > 0), DEFAULT_CONTEXT_LENGTH)
    trained = model.meta.n_ctx_train if model.meta else None
    return min(length, trained if trained and trained > 0 else length, MAX_CONTEXT_LENGTH)


class OpenAIDialect:
    """Speaks to `/v1/chat/completions` and `/v1/completions`, always streaming."""

    def call(self, request: GenerateRequest, offer: Offer) -> Call:
        check_offer(request, offer)
        request = continued(request)
        flavour = FLAVOURS[offer.flavour]
        body: dict[str, Any] = {
            "model": request.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            **dict(_sampling(request, offer, flavour)),
            **dict(_limits(request, flavour)),
        }
        match request.prompt:
            case ChatPrompt() as prompt:
                body |= _chat(prompt, flavour)
                _chat_extras(body, request, flavour)
                if request.resume_text.strip():
                    body |= dict(flavour.continues)
                return Call(CHAT_PATH, body)
            case TextPrompt(text):
                body["prompt"] = text
            case TokenPrompt(token_ids):
                body["prompt"] = list(token_ids)
        _text_extras(body, request, offer, flavour)
        return Call(TEXT_PATH, body)

    def reader(self, request: GenerateRequest) -> Reader:
        return OpenAIReader(request)


def _sampling(request: GenerateRequest, offer: Offer, flavour: Flavour) -> Iterator[tuple[str, Any]]:
    """Said in full where a server has defaults of its own: ours change nothing."""
    sampling = request.sampling
    yield "temperature", sampling.temperature
    yield "top_p", sampling.top_p
    yield "seed", small_seed(sampling.seed)
    if flavour.top_k_off is not None:
        yield "top_k", sampling.top_k or flavour.top_k_off
        yield "min_p", sampling.min_p
        yield from _repetition(sampling.repetition_penalty, offer, flavour)
    if features.PENALTIES in flavour.chat:
        yield "presence_penalty", sampling.presence_penalty
        yield "frequency_penalty", sampling.frequency_penalty
    if sampling.logit_bias:
        yield "logit_bias", {str(token): bias for token, bias in sampling.logit_bias.items()}


def _repetition(penalty: float, offer: Offer, flavour: Flavour) -> Iterator[tuple[str, Any]]:
    if flavour is LLAMA_CPP:
        yield "repeat_penalty", penalty
        yield "repeat_last_n", offer.card.context_length  # as everywhere else; its own default is the last 64 tokens
    else:
        yield "repetition_penalty", penalty


def _limits(request: GenerateRequest, flavour: Flavour) -> Iterator[tuple[str, Any]]:
    if request.max_tokens is not None:
        yield "max_tokens", request.max_tokens
    if request.min_tokens:
        yield "min_tokens", request.min_tokens
    if request.ignore_eos:
        yield "ignore_eos", True
    if request.n > 1:
        yield "n", request.n
    if request.stop:
        yield "stop", list(request.stop)
    if request.stop_token_ids:
        yield "stop_token_ids", list(request.stop_token_ids)


def _chat(prompt: ChatPrompt, flavour: Flavour) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(message) for message in prompt.messages]}
    if tools := offered_tools(prompt):
        if not prompt.parallel_tool_calls and not flavour.honours_parallel:
            raise FeatureMissing("The server cannot be held to one tool call.", "parallel_tool_calls")
        body["tools"] = tools
        body["tool_choice"] = prompt.tool_choice
        body["parallel_tool_calls"] = prompt.parallel_tool_calls
    return body


def _message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        said["name"] = message.name
    return said


def _chat_extras(body: dict[str, Any], request: GenerateRequest, flavour: Flavour) -> None:
    if request.response_format is not None:
        body["response_format"] = _response_format(request.response_format)
    if request.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = _top(request.logprobs, flavour)


def _text_extras(body: dict[str, Any], request: GenerateRequest, offer: Offer, flavour: Flavour) -> None:
    if request.max_tokens is None and flavour is not LLAMA_CPP:
        # OpenAI's default here is 16; vLLM takes null for all that the context holds
        body["max_tokens"] = None if flavour is VLLM else _room(request, offer.card.context_length)
    if request.logprobs is not None:
        body["logprobs"] = _top(request.logprobs, flavour)
    if request.response_format is not None:
        form = _response_format(request.response_format)
        if flavour is LLAMA_CPP:  # it takes response_format with chats only
            body["json_schema"] = form.get("json_schema", {}).get("schema", {"type": "object"})
        else:
            body["response_format"] = form


def _top(logprobs: int, flavour: Flavour) -> int:
    """llama.cpp takes 0 for no log-probabilities at all; what was not asked for is left out when it answers."""
    return max(1, logprobs) if flavour is LLAMA_CPP else logprobs


def _room(request: GenerateRequest, context_length: int) -> int:
    """Tokens that the context surely still holds: no vocabulary makes more tokens of a text than it has bytes."""
    match request.prompt:
        case TextPrompt(text):
            used = len(text.encode("utf-8", "replace"))
        case TokenPrompt(token_ids):
            used = len(token_ids)
        case _:
            raise AssertionError("chats need no such guess")
    return max(MIN_ROOM, context_length - used - MIN_ROOM)


def _response_format(form: ResponseFormat) -> dict[str, Any]:
    if isinstance(form, JsonFormat):
        return {"type": "json_object"}
    schema = json_object(form.schema, "The schema", "response_format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def is_model_list(body: bytes) -> bool:
    """Whether this is how OpenAI's API lists models."""
    try:
        parse_models(body, Abilities())
    except WorkerFailed:
        return False
    return True
