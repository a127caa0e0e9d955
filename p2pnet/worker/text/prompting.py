"""Encodes a prompt with the model's own tokenizer and chat template. Knows nothing of weights.

A template is a program that came with the model. transformers runs it in jinja2's ImmutableSandboxedEnvironment: it
reaches no file and no module, and changes nothing that it is given. But it may loop for as long as it likes, so the
owner of a worker trusts a model's template with the worker's time, and rendering belongs off the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import msgspec
from jinja2 import TemplateError

from p2pnet.errors import InvalidRequest
from p2pnet.messages import ChatPrompt, Prompt, TextPrompt, TokenPrompt, Tool, ToolCall
from p2pnet.thought_tags import opens_thoughts
from p2pnet.worker.text.length import CHARS_PER_TOKEN, check_fits
from p2pnet.worker.text.tool_calls.formats import ToolFormat, find_format
from p2pnet.worker.text.tool_calls.schemas import parameters_of

_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What a template may raise on purpose, or when it trips over turns or tools that it did not expect."""

TAIL_TOKENS = 32
"""Enough for the longest tag and the space behind it, in a tokenizer that writes it letter by letter."""

_SHORT_ID_CHARS = 9
_PROBE = "probe_5f1c"


def encode_prompt(
    prompt: Prompt, tokenizer: Any, vocabulary_size: int, context_length: int, adds_special: bool | None = None
) -> tuple[int, ...]:
    """The ids to continue, at least one. Raises InvalidRequest, or ContextOverflow for a text so much longer than the
    context that not all of it had to be tokenized. `adds_special` is as in TokenizeRequest: None for a generation."""
    match prompt:
        case ChatPrompt():
            ids = _encode_chat(prompt, tokenizer, context_length, adds_special is True)
        case TextPrompt(text):
            check_fits(text, tokenizer, context_length)
            ids = _encode_text(text, tokenizer) if adds_special is not False else _encode_plain(text, tokenizer)
        case TokenPrompt(token_ids):
            ids = token_ids
    if not ids:
        raise InvalidRequest("The prompt is empty.", "prompt")
    if max(ids) >= vocabulary_size:
        raise InvalidRequest(f"Token id {max(ids)} is not in the vocabulary of {vocabulary_size}.", "prompt")
    return ids


def begins_thinking(prompt: Prompt, ids: Sequence[int], tokenizer: Any) -> bool:
    """Whether the template has opened what the model thinks, as those of many reasoning models do: `ids` are the whole
    prompt's. Where a call is required the answer begins with that, whatever the template says."""
    if not isinstance(prompt, ChatPrompt) or prompt.tool_choice == "required":
        return False
    text: str = tokenizer.decode(list(ids[-TAIL_TOKENS:]), skip_special_tokens=False)
    return opens_thoughts(text)


def has_tools(tokenizer: Any) -> bool:
    """Whether the chat template shows tools to the model. One tool is tried."""
    if not tokenizer.chat_template:
        return False
    tool = _tool(Tool(_PROBE, _PROBE, '{"type": "object", "properties": {}}'))
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}], tools=[tool], add_generation_prompt=True, tokenize=False
        )
    except _TEMPLATE_ERRORS:
        return False
    return _PROBE in text


def tool_format(tokenizer: Any) -> ToolFormat | None:
    """How the model writes tool calls, if its chat template has them in a form that we read."""
    return find_format(_template(tokenizer)) if has_tools(tokenizer) else None


def _encode_chat(prompt: ChatPrompt, tokenizer: Any, context_length: int, adds_special: bool) -> tuple[int, ...]:
    if not tokenizer.chat_template:
        raise InvalidRequest("This model has no chat template: use completions instead of chat.", "messages")
    tools = _tools(prompt) or None
    style = _TurnStyle(has_short_ids=_has_short_ids(tokenizer))
    longest = None if _chars(prompt) <= CHARS_PER_TOKEN * context_length else context_length
    try:
        try:
            ids = _render(tokenizer, _turns(prompt, style), tools, longest, adds_special)
        except TypeError:
            # Most templates take a call's arguments as an object; DeepSeek's join them to text, and fail on one.
            if not any(message.tool_calls for message in prompt.messages):
                raise
            turns = _turns(prompt, replace(style, are_arguments_text=True))
            ids = _render(tokenizer, turns, tools, longest, adds_special)
    except _TEMPLATE_ERRORS as error:
        raise InvalidRequest(f"The model's chat template refuses these messages: {error}", "messages") from error
    return tuple(ids)


def _chars(prompt: ChatPrompt) -> int:
    """What the template is given to make its text of; it may leave some of it out."""
    said = sum(len(message.content) for message in prompt.messages)
    called = sum(len(call.arguments) for message in prompt.messages for call in message.tool_calls)
    return said + called + sum(len(tool.description) + len(tool.parameters) for tool in prompt.tools)


def _render(
    tokenizer: Any,
    turns: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    longest: int | None,
    adds_special: bool,
) -> list[int]:
    """Raises ContextOverflow where the text is too long for `longest` tokens; None: it is too short to be."""
    if longest is not None or adds_special:
        text = tokenizer.apply_chat_template(turns, tools=tools, add_generation_prompt=True, tokenize=False)
        if longest is not None:
            check_fits(text, tokenizer, longest)
        if adds_special:
            return list(tokenizer(text)["input_ids"])
    ids: list[int] = tokenizer.apply_chat_template(
        turns, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return ids


def _tools(prompt: ChatPrompt) -> list[dict[str, Any]]:
    """The tools that the model is shown, as templates expect them. Raises InvalidRequest."""
    names = [tool.name for tool in prompt.tools]
    if len(set(names)) < len(names):
        raise InvalidRequest("Two tools have the same name.", "tools")
    if prompt.tool_choice == "required" and (not names or prompt.required_tool not in (None, *names)):
        raise InvalidRequest("tool_choice requires a tool that is not among the tools.", "tool_choice")
    tools = [_tool(tool) for tool in prompt.tools]
    return [] if prompt.tool_choice == "none" else tools


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": parameters_of(tool)}
    return {"type": "function", "function": function}


@dataclass(frozen=True)
class _TurnStyle:
    """What a template expects of calls."""

    has_short_ids: bool
    are_arguments_text: bool = False


def _turns(prompt: ChatPrompt, style: _TurnStyle) -> list[dict[str, Any]]:
    """The messages as templates expect them: what a message does not have is not a key.

    A result has the name of the tool it came from, even if the client only gave the call's id: Hermes' template refuses
    one without.
    """
    called = {call.id: call.name for message in prompt.messages for call in message.tool_calls}
    turns = []
    for message in prompt.messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        name = message.name or called.get(message.tool_call_id or "")
        if name is not None:
            turn["name"] = name
        if message.tool_call_id is not None:
            turn["tool_call_id"] = _shown_id(message.tool_call_id, style)
        if message.tool_calls:
            turn["tool_calls"] = [_call(call, style) for call in message.tool_calls]
        turns.append(turn)
    return turns


def _call(call: ToolCall, style: _TurnStyle) -> dict[str, Any]:
    arguments = call.arguments if style.are_arguments_text else _arguments(call)
    function = {"name": call.name, "arguments": arguments}
    return {"type": "function", "id": _shown_id(call.id, style), "function": function}


def _arguments(call: ToolCall) -> dict[str, Any] | str:
    """The arguments as an object if they are one. A model's broken arguments stay the text that they were."""
    try:
        return msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except (ValueError, RecursionError):
        return call.arguments


def _shown_id(call_id: str, style: _TurnStyle) -> str:
    """The id that the template is given: Mistral's templates take ids of nine letters and digits, and refuse all
    others."""
    if not style.has_short_ids or (len(call_id) == _SHORT_ID_CHARS and call_id.isalnum() and call_id.isascii()):
        return call_id
    return blake2b(call_id.encode(), digest_size=_SHORT_ID_CHARS).hexdigest()[:_SHORT_ID_CHARS]


def _has_short_ids(tokenizer: Any) -> bool:
    known = find_format(_template(tokenizer))
    return known is not None and known.has_short_ids


def _template(tokenizer: Any) -> str:
    """The text of the template that tools are shown with: a model may have one for them alone."""
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        return str(templates.get("tool_use") or templates.get("default") or "")
    return str(templates)


def _encode_plain(text: str, tokenizer: Any) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _encode_text(text: str, tokenizer: Any) -> tuple[int, ...]:
    ids: tuple[int, ...] = tuple(tokenizer(text)["input_ids"])
    if ids:
        return ids
    if tokenizer.bos_token_id is None:
        raise InvalidRequest("The prompt is empty, and this model has no token to begin with.", "prompt")
    return (tokenizer.bos_token_id,)
