"""Translates the turns of Anthropic's messages into those that chat templates know. Pure.

There a turn is a list of blocks: a user's may hold results of tools, an assistant's the calls of them. Here each result
is a turn of its own. Turns of one role in a row become one, as Anthropic has it. Blocks of text follow one another
without a gap. What a model thought earlier is left out, as Anthropic leaves it out, and so is what its servers did.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

from gateway.http.bodies import Body, json_text
from gateway.http.images import Said, image_of_base64
from p2pnet.errors import InvalidRequest
from p2pnet.messages import ImagePart, Message, ToolCall

ROLES = ("user", "assistant", "system")

MAX_BLOCKS = 4096
"""Of one turn."""

ERROR_MARK = "Error: "
"""What the result of a tool that failed begins with: templates have no other place for `is_error`."""

_THOUGHTS = ("thinking", "redacted_thinking")

_OF_ITS_SERVERS = re.compile(r"(server|mcp)_tool_use|[a-z_]+_tool_result|container_upload")
"""Blocks of what Anthropic's own servers did in an earlier turn, which nobody else can read."""


class Source(Body):
    """Where an image is. Its `media_type` is not read: an image says itself what it is."""

    type: str = ""
    data: str | None = None


class Block(Body):
    """One block, of whatever type; what another type does not have is None."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | Annotated[list[Any], Field(max_length=MAX_BLOCKS)] | None = None
    source: Source | None = None
    is_error: bool | None = None


class Turn(Body):
    role: str
    content: str | Annotated[list[Block], Field(fail_fast=True, max_length=MAX_BLOCKS)]

    @property
    def blocks(self) -> list[Block]:
        return [Block(type="text", text=self.content)] if isinstance(self.content, str) else self.content


def text_of(content: str | Sequence[Any], where: str) -> str:
    """The text of a system prompt. Raises InvalidRequest for blocks of anything else."""
    if isinstance(content, str):
        return content
    return "".join(_text(_block(block, f"{where}[{i}]"), f"{where}[{i}]") for i, block in enumerate(content))


def split_prefill(turns: Sequence[Turn]) -> tuple[Sequence[Turn], str]:
    """The turns that are over, and what the last one has said so far if it is the assistant's: the answer goes on
    with it."""
    begin = len(turns)
    while begin and turns[begin - 1].role == "assistant":
        begin -= 1
    begun = "".join(_begun(turn, f"messages[{i}]") for i, turn in enumerate(turns[begin:], begin))
    return turns[:begin], begun


def messages_of(turns: Sequence[Turn]) -> tuple[Message, ...]:
    """Raises InvalidRequest, which names what cannot be honoured."""
    messages: list[Message] = []
    for i, turn in enumerate(turns):
        if turn.role not in ROLES:
            raise InvalidRequest(f"messages[{i}].role: one of {', '.join(ROLES)}", f"messages[{i}].role")
        for message in _messages(turn, f"messages[{i}].content"):
            if messages and _is_same_turn(messages[-1], message):
                messages[-1] = _joined(messages[-1], message)
            else:
                messages.append(message)
    return tuple(messages)


def _messages(turn: Turn, where: str) -> Iterator[Message]:
    """Results come first, as they answer the turn before; a turn with nothing but results is no more than those."""
    said, is_said = Said(), False
    calls: list[ToolCall] = []
    results: list[Message] = []
    for i, block in enumerate(turn.blocks):
        at = f"{where}[{i}]"
        if block.type == "tool_use" and turn.role == "assistant":
            calls.append(_call(block, at))
        elif block.type == "tool_result" and turn.role == "user":
            results.append(_result(block, at))
        elif turn.role != "assistant" or not (block.type in _THOUGHTS or _OF_ITS_SERVERS.fullmatch(block.type)):
            _say(said, block, at, may_show=turn.role == "user")
            is_said = True
    yield from results
    if is_said or not results:
        yield Message(turn.role, said.text, tuple(calls), images=_images(said))


def _begun(turn: Turn, where: str) -> str:
    (message,) = _messages(turn, f"{where}.content")
    if message.tool_calls:
        raise InvalidRequest(f"{where}.content: the results of its tool_use blocks are missing", "messages")
    return message.content


def _is_same_turn(one: Message, other: Message) -> bool:
    return one.role == other.role and one.role != "tool"


def _joined(one: Message, other: Message) -> Message:
    between = "\n\n" if one.content and other.content and one.role != "assistant" else ""
    before = one.content + between
    moved = tuple(ImagePart(image.data, len(before) + image.at) for image in other.images)
    return Message(one.role, before + other.content, one.tool_calls + other.tool_calls, images=(*one.images, *moved))


def _say(said: Said, block: Block, where: str, may_show: bool) -> None:
    """Add a text, or an image where there may be one."""
    if block.type == "image" and may_show:
        said.add_image(_image(block, f"{where}.source"))
    else:
        said.text += _text(block, where)


def _image(block: Block, where: str) -> bytes:
    source = block.source
    if source is None or source.type != "base64" or source.data is None:
        raise InvalidRequest(f"{where}: images are not fetched here; send the image itself, as base64", where)
    return image_of_base64(source.data, f"{where}.data")


def _images(said: Said) -> tuple[ImagePart, ...]:
    return tuple(ImagePart(**image) for image in said.images)


def _text(block: Block, where: str) -> str:
    if block.type != "text":
        raise InvalidRequest(f"{where}.type: {block.type[:64]!r} is not supported here", where)
    if block.text is None:
        raise InvalidRequest(f"{where}.text: required", where)
    return block.text


def _block(block: Any, where: str) -> Block:
    try:
        return Block.model_validate(block)
    except ValueError as error:
        raise InvalidRequest(f"{where}: a block of text, or of an image where there may be one", where) from error


def _call(block: Block, where: str) -> ToolCall:
    if not block.id or not block.name or block.input is None:
        raise InvalidRequest(f"{where}: a tool_use has an id, a name and an input", where)
    return ToolCall(block.id, block.name, json_text(block.input, f"{where}.input"))


def _result(block: Block, where: str) -> Message:
    if not block.tool_use_id:
        raise InvalidRequest(f"{where}.tool_use_id: required", where)
    said = Said(ERROR_MARK if block.is_error else "")
    content = block.content or ""
    for i, part in enumerate([{"type": "text", "text": content}] if isinstance(content, str) else content):
        at = f"{where}.content[{i}]"
        _say(said, _block(part, at), at, may_show=True)
    return Message("tool", said.text, tool_call_id=block.tool_use_id, images=_images(said))
