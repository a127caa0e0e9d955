"""Puts our requests into the words of Ollama's own API. Pure.

Its `/v1` would do less: no context length, no way to forbid that a long prompt is cut in silence.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat, ResponseFormat
from p2pnet.errors import FeatureMissing
from p2pnet.messages import ChatPrompt, GenerateRequest, Message, TextPrompt
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
from p2pnet.worker.backends.upstream.ollama.reader import OllamaReader

CHAT_PATH = "/api/chat"
TEXT_PATH = "/api/generate"


class OllamaDialect:
    """Speaks to `/api/chat` and `/api/generate`, always streaming."""

    def call(self, request: GenerateRequest, offer: Offer) -> UpstreamCall:
        check_offer(request, offer)
        request = continued(request)
        body: dict[str, Any] = {
            "model": offer.name,
            "stream": True,
            "truncate": False,  # a prompt that does not fit is an error, not a shorter prompt
            "shift": False,  # nor is its beginning forgotten when the answer fills the context
            "options": _options(request, offer),
        }
        if request.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": request.logprobs}
        if request.response_format is not None:
            body["format"] = _format(request.response_format)
            if offer.thinks:
                body["think"] = False  # the text is to be JSON, from its first character on
        match request.prompt:
            case ChatPrompt() as prompt:
                return UpstreamCall(CHAT_PATH, body | _chat(prompt))
            case TextPrompt() as prompt:
                return UpstreamCall(TEXT_PATH, body | _text(prompt))
            case _:
                raise AssertionError("the features say that it takes no token ids")

    def reader(self, request: GenerateRequest) -> AnswerReader:
        return OllamaReader(request)


def _format(form: ResponseFormat) -> Any:
    match form:
        case JsonFormat():
            return "json"
        case JsonSchemaFormat(schema):
            return json_object(schema, "The schema", "response_format")
    raise AssertionError("the features say that it takes no regular expression")


def _options(request: GenerateRequest, offer: Offer) -> dict[str, Any]:
    """All options. They are said in full, because Ollama's defaults, and those in a model's file, would change the
    distribution."""
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
    """One message. Its tool calls have objects where ours have text, and a tool's result needs the tool's name. Its
    images have no places: Ollama puts them before the text."""
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        said["images"] = [b64encode(image.data).decode() for image in message.images]
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
