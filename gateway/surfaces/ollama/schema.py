"""Parses Ollama's request bodies into a GenerateRequest or an EmbedRequest.

As with Ollama's own server: types are checked strictly, null is as good as nothing, unknown fields are ignored. Known
fields that would change the answer and cannot be honoured are refused by name. The bounds of what is no option live in
`p2pnet.messages`. Knows nothing of HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import Field

from gateway.http.bodies import Body, json_text, out_of_bounds, validated
from gateway.http.images import with_checked_images
from gateway.interface import ModelEntry
from gateway.model_names.naming import untagged
from gateway.surfaces.ollama.context import Turn, decode_context
from gateway.surfaces.ollama.messages import ChatMessage, Images, ToolBody, chat_messages, chat_tools, image_fields
from gateway.surfaces.ollama.models import not_found
from gateway.surfaces.ollama.options import OUR_NAMES, read_options
from p2pnet.embed_messages import MAX_EMBED_INPUTS, EmbedRequest
from p2pnet.errors import FeatureMissing, InvalidRequest, ModelNotFound
from p2pnet.features import CHAT, FIM, IMAGES, TEXT
from p2pnet.messages import MAX_MESSAGES, MAX_TOOLS, MAX_TOP_LOGPROBS, GenerateRequest

THINK_LEVELS = ("max", "high", "medium", "low")
_LEVELS = ", ".join(f'"{level}"' for level in THINK_LEVELS)

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_DURATION = re.compile(rf"[-+]?(?:{_NUMBER}|(?:{_NUMBER}(?:ns|us|µs|μs|ms|s|m|h))+)")
"""As Go has it. A plain number means seconds."""

MAX_NAME_CHARS = 256
MAX_DURATION_CHARS = 64

_OLLAMA_NAMES = {ours: name for name, ours in OUR_NAMES.items()} | {
    "max_tokens": "num_predict",
    "response_format": "format",
}


class _Body(Body):
    model: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The model, as the client calls it."""
        return self.model or ""


class _Generation(_Body):
    """What chat and generate have in common. `truncate` and `shift` are not read: nothing is ever cut in silence here,
    and a prompt that does not fit is an error."""

    stream: bool | None = None
    format: Any = None
    think: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    debug_render_only: bool | None = Field(None, alias="_debug_render_only")

    @property
    def is_stream(self) -> bool:
        return self.stream is not False


class GenerateBody(_Generation):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: Annotated[list[int], Field(fail_fast=True)] | None = None
    raw: bool | None = None
    images: Images | None = None

    @property
    def order(self) -> str | None:
        return None if self.prompt else _order(self.keep_alive)

    @property
    def is_turn(self) -> bool:
        """Whether the prompt is a turn of a conversation, and not a text as it stands."""
        return not self.raw and not self.suffix

    def turns(self) -> tuple[Turn, ...]:
        """The conversation that this prompt ends. Raises InvalidRequest."""
        earlier = decode_context(self.context or ())
        if self.system:
            if earlier and earlier[0].role == "system":
                earlier = earlier[1:]
            earlier = (Turn("system", self.system), *earlier)
        return (*earlier, Turn("user", self.prompt or ""))


class ChatBody(_Generation):
    messages: Annotated[list[ChatMessage], Field(fail_fast=True, max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[ToolBody], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None

    @property
    def order(self) -> str | None:
        return None if self.messages else _order(self.keep_alive)


class EmbedBody(_Body):
    input: Any = None
    dimensions: int | None = None
    truncate: bool | None = None

    def texts(self) -> list[str]:
        """Raises InvalidRequest. No text at all is no error: there are no vectors then."""
        if self.input is None or self.input == "":
            return []
        texts = [self.input] if isinstance(self.input, str) else self.input
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InvalidRequest("invalid input type", "input")
        if len(texts) > MAX_EMBED_INPUTS:
            raise InvalidRequest(f"input: at most {MAX_EMBED_INPUTS} texts", "input")
        return texts


class EmbeddingsBody(_Body):
    prompt: str | None = None


class ShowBody(_Body):
    old_name: str | None = Field(None, alias="name")

    @property
    def name(self) -> str:
        return self.model or self.old_name or ""


B = TypeVar("B", bound=_Body)


def parse(kind: type[B], raw: bytes) -> B:
    """Raises InvalidRequest, which names the field, or ModelNotFound."""
    if not raw.strip():
        raise InvalidRequest("missing request body")
    body = validated(kind, raw)
    if not body.name:
        raise not_found("") if kind is GenerateBody else InvalidRequest("model is required", "model")
    _check_keep_alive(body.keep_alive)
    return body


def check_generation(body: _Generation, entry: ModelEntry | None) -> None:
    """What can be refused before anybody is asked. Raises RequestError, in Ollama's words where it has some."""
    if not 0 <= (body.top_logprobs or 0) <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", "top_logprobs")
    _check_think(body.think)
    if body.debug_render_only:
        raise InvalidRequest("_debug_render_only: the template stays with the worker", "_debug_render_only")
    if entry is not None and "generate" not in entry.tasks:
        what = "chat" if isinstance(body, ChatBody) else "generate"
        raise FeatureMissing(f'"{body.name}" does not support {what}', "model")


def chat_request(
    body: ChatBody, entry: ModelEntry | None, request_id: str, make_seed: Callable[[], int]
) -> GenerateRequest:
    """Raises RequestError."""
    _check_images(body, entry, any(message.images for message in body.messages or ()))
    prompt = {
        "type": "chat",
        "messages": chat_messages(body.messages or ()),
        "tools": chat_tools(body.tools or ()),
    }
    return _request(body, entry, prompt, request_id, make_seed)


def generate_request(
    body: GenerateBody, entry: ModelEntry | None, request_id: str, make_seed: Callable[[], int]
) -> GenerateRequest:
    """Raises RequestError."""
    if body.raw and (body.template or body.system or body.context):
        raise InvalidRequest("raw mode does not support template, system, or context", "raw")
    if body.template:
        raise InvalidRequest("template: not supported here: the worker uses the model's own", "template")
    if body.suffix and (body.system or body.context):
        raise InvalidRequest("suffix: goes with neither system nor context", "suffix")
    if body.suffix and entry is not None and FIM not in entry.features:
        raise FeatureMissing(f"{body.name} does not support insert", "suffix")
    _check_images(body, entry, bool(body.images))
    return _request(body, entry, _generate_prompt(body, entry), request_id, make_seed)


def _check_images(body: _Generation, entry: ModelEntry | None, has_images: bool) -> None:
    if has_images and entry is not None and IMAGES not in entry.features:
        raise FeatureMissing(f"{body.name} does not support vision", "images")


def _generate_prompt(body: GenerateBody, entry: ModelEntry | None) -> dict[str, Any]:
    """A chat of the turns so far. A model without a chat template just continues their texts, as Ollama has it do."""
    if not body.is_turn:
        if body.images:
            raise InvalidRequest("images: go with neither raw nor suffix", "images")
        return {"type": "text", "text": body.prompt, "suffix": body.suffix or ""}
    turns = body.turns()
    if entry is not None and TEXT in entry.features and CHAT not in entry.features:
        if body.system:
            raise FeatureMissing(f"{body.name} does not support system: it has no chat template", "system")
        return {"type": "text", "text": "".join(turn.content for turn in turns)}
    messages: list[dict[str, Any]] = [{"role": turn.role, "content": turn.content} for turn in turns]
    messages[-1] |= image_fields(body.images or (), "images")
    return {"type": "chat", "messages": messages}


def embed_request(
    name: str,
    entry: ModelEntry | None,
    texts: list[str],
    request_id: str,
    dimensions: int | None = None,
    truncate: bool = True,
) -> EmbedRequest:
    """Raises RequestError."""
    if entry is not None and "embed" not in entry.tasks:
        raise FeatureMissing("this model does not support embeddings", "model")
    fields = {
        "request_id": request_id,
        "model": untagged(name) if entry is None else entry.id,
        "inputs": [{"type": "text", "text": text} for text in texts],
        "dimensions": dimensions or None,
        "truncate": truncate,
    }
    try:
        return msgspec.convert(fields, EmbedRequest)
    except msgspec.ValidationError as error:
        raise _out_of_bounds(error, name) from error


def _request(
    body: _Generation,
    entry: ModelEntry | None,
    prompt: dict[str, Any],
    request_id: str,
    make_seed: Callable[[], int],
) -> GenerateRequest:
    options = read_options(body.options or {}, make_seed)
    fields = {
        "request_id": request_id,
        "model": untagged(body.name) if entry is None else entry.id,
        "prompt": prompt,
        "sampling": options.sampling,
        "max_tokens": options.max_tokens,
        "clamp_max_tokens": options.max_tokens is not None,
        "stop": options.stop,
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
        "response_format": _response_format(body.format),
    }
    try:
        return with_checked_images(msgspec.convert(fields, GenerateRequest))
    except msgspec.ValidationError as error:
        raise _out_of_bounds(error, body.name) from error


def _response_format(given: Any) -> dict[str, str] | None:
    if given is None or given == "":
        return None
    if given == "json":
        return {"type": "json"}
    if isinstance(given, dict):
        return {"type": "json_schema", "schema": json_text(given, "format")}
    raise InvalidRequest('invalid format: expected "json" or a valid JSON Schema object', "format")


def _check_think(think: Any) -> None:
    """Whether a model thinks is its own affair here: what it does think is passed on, apart from what it says."""
    if think is None or isinstance(think, bool):
        return
    if isinstance(think, str):
        if think not in THINK_LEVELS:
            raise InvalidRequest(f'invalid think value: "{think[:32]}" (must be {_LEVELS}, true, or false)', "think")
        return
    raise InvalidRequest(f"think must be a boolean or string ({_LEVELS}, true, or false)", "think")


def _check_keep_alive(keep_alive: Any) -> None:
    """Seconds, or a duration such as `5m`. It is only understood: workers load and unload as they see fit."""
    if keep_alive is None or (isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool)):
        return
    if not isinstance(keep_alive, str):
        raise InvalidRequest("keep_alive: a duration as a string, or a number of seconds", "keep_alive")
    if len(keep_alive) > MAX_DURATION_CHARS or not _DURATION.fullmatch(keep_alive):
        raise InvalidRequest(f'time: invalid duration "{keep_alive[:MAX_DURATION_CHARS]}"', "keep_alive")


def _order(keep_alive: Any) -> str:
    """What a request without a prompt is: an order to load the model, or to unload it. The `done_reason` says which."""
    is_zero = not re.search("[1-9]", keep_alive) if isinstance(keep_alive, str) else keep_alive == 0
    return "unload" if is_zero else "load"


def _out_of_bounds(error: msgspec.ValidationError, name: str) -> InvalidRequest | ModelNotFound:
    """As every surface says it, but for Ollama's words where there is no such model."""
    refused = out_of_bounds(error, name, _OLLAMA_NAMES)
    return not_found(name) if isinstance(refused, ModelNotFound) else refused
