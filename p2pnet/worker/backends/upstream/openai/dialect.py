"""Puts our requests into the words of OpenAI's API, as other servers speak it. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from p2pnet import features
from p2pnet.answer_forms import JsonFormat, RegexFormat, ResponseFormat
from p2pnet.errors import FeatureMissing
from p2pnet.images import image_kind
from p2pnet.messages import ChatPrompt, GenerateRequest, Message, TextPrompt, TokenPrompt
from p2pnet.worker.backends.upstream.dialect import (
    AnswerReader,
    UpstreamCall,
    check_offer,
    continued,
    json_object,
    offered_tools,
    small_seed,
)
from p2pnet.worker.backends.upstream.offer import Offer
from p2pnet.worker.backends.upstream.openai.flavours import FLAVOURS, LLAMA_CPP, VLLM, Flavour
from p2pnet.worker.backends.upstream.openai.reader import OpenAIReader

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"
MIN_ROOM = 16
"""Tokens to generate when a prompt seems to fill the context: what OpenAI's API gives when nothing is said."""


class OpenAIDialect:
    """Speaks to `/v1/chat/completions` and `/v1/completions`, always streaming."""

    def call(self, request: GenerateRequest, offer: Offer) -> UpstreamCall:
        check_offer(request, offer)
        request = continued(request)
        flavour = FLAVOURS[offer.flavour]
        body: dict[str, Any] = {
            "model": offer.name,
            "stream": True,
            "stream_options": {"include_usage": True},
            **dict(_sampling(request, offer, flavour)),
            **dict(flavour.counts),
            **dict(_limits(request, offer, flavour)),
        }
        match request.prompt:
            case ChatPrompt() as prompt:
                body |= chat_fields(prompt, flavour)
                _chat_extras(body, request, flavour)
                if request.resume_text.strip():
                    body |= dict(flavour.continues)
                return UpstreamCall(CHAT_PATH, body)
            case TextPrompt(text):
                body["prompt"] = text
            case TokenPrompt(token_ids):
                body["prompt"] = list(token_ids)
        _text_extras(body, request, offer, flavour)
        return UpstreamCall(TEXT_PATH, body)

    def reader(self, request: GenerateRequest) -> AnswerReader:
        return OpenAIReader(request)


def _sampling(request: GenerateRequest, offer: Offer, flavour: Flavour) -> Iterator[tuple[str, Any]]:
    """The sampling fields, said in full where a server has defaults of its own: our defaults change nothing."""
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


def _limits(request: GenerateRequest, offer: Offer, flavour: Flavour) -> Iterator[tuple[str, Any]]:
    if request.max_tokens is not None:
        yield "max_tokens", request.max_tokens
    if request.min_tokens:
        yield "min_tokens", request.min_tokens
    if request.ignore_eos:
        yield "ignore_eos", True
    if request.n > 1:
        if offer.slots and request.n > offer.slots:
            raise FeatureMissing(f"The server gives at most {offer.slots} answers to one prompt.", "n")
        yield "n", request.n
    if request.stop:
        yield "stop", list(request.stop)
    if request.stop_token_ids:
        if not flavour.stops_at_ids:
            raise FeatureMissing("The server cannot be told to stop at a token's id.", "stop_token_ids")
        yield "stop_token_ids", list(request.stop_token_ids)


def chat_fields(prompt: ChatPrompt, flavour: Flavour) -> dict[str, Any]:
    """The messages and the tools. Raises FeatureMissing or InvalidRequest for what the server cannot be told."""
    body: dict[str, Any] = {"messages": [_message(message) for message in prompt.messages]}
    if tools := offered_tools(prompt):
        if not prompt.parallel_tool_calls and not flavour.honours_parallel:
            raise FeatureMissing("The server cannot be held to one tool call.", "parallel_tool_calls")
        body["tools"] = tools
        body["tool_choice"] = prompt.tool_choice
        body["parallel_tool_calls"] = prompt.parallel_tool_calls
    return body


def _message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": _content(message)}
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


def _content(message: Message) -> str | list[dict[str, Any]]:
    """Its text, or its parts, where images stand in it."""
    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = []
    end = 0
    for image in message.images:
        if image.at > end:
            parts.append({"type": "text", "text": message.content[end : image.at]})
            end = image.at
        url = f"data:{image_kind(image.data).mime};base64,{b64encode(image.data).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    if message.content[end:]:
        parts.append({"type": "text", "text": message.content[end:]})
    return parts


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
    """How many alternatives to ask for. llama.cpp takes 0 for no log-probabilities at all; what was not asked for is
    left out when it answers."""
    return max(1, logprobs) if flavour is LLAMA_CPP else logprobs


def _room(request: GenerateRequest, context_length: int) -> int:
    """How many tokens the context surely still holds: no vocabulary makes more tokens of a text than it has bytes."""
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
    if isinstance(form, RegexFormat):
        raise AssertionError("the features say that it takes no regular expression")
    schema = json_object(form.schema, "The schema", "response_format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
