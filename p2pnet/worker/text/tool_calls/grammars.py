"""Reads answers with tool calls, in the way of each family of models.

The forms are those of the families' chat templates; what models leave out or add in practice is tolerated. What turns
out to be no call is said as text.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pnet.worker.text.tool_calls import parameter_calls
from p2pnet.worker.text.tool_calls.json_calls import arguments, call_object
from p2pnet.worker.text.tool_calls.reader import CallReader, Reading

TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
TOOL_CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
DEEPSEEK_CALLS, DEEPSEEK_CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
DEEPSEEK_CALL, DEEPSEEK_CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
DEEPSEEK_SEP = "<｜tool▁sep｜>"
DEEPSEEK_KIND = "function"
FENCE_BEGIN, FENCE_END = "```json", "```"


def hermes(reader: CallReader) -> Reading[None]:
    """Hermes, Qwen 2.5, Qwen 3: a JSON object between tags, for each call."""

    def call(_: str) -> Reading[bool]:
        yield from reader.space()
        if (yield from reader.peek()) != "{":
            return False
        return (yield from call_object(reader, True, TOOL_CALL_END))

    yield from _marked(reader, (TOOL_CALL,), (TOOL_CALL_END,), call)


def qwen_coder(reader: CallReader) -> Reading[None]:
    """Qwen3-Coder: tags for the call, its function and each parameter. The first tag is at times left out."""

    def call(opener: str) -> Reading[bool]:
        if opener == TOOL_CALL:
            yield from reader.space()
            if not (yield from reader.literal(parameter_calls.FUNCTION)):
                return False
        return (yield from parameter_calls.call(reader, TOOL_CALL_END))

    yield from _marked(reader, (TOOL_CALL, parameter_calls.FUNCTION), (TOOL_CALL_END,), call)


def mistral(reader: CallReader) -> Reading[None]:
    """Mistral: after a mark a list of objects, or a name and its arguments, with an id between them at times."""

    def call(_: str) -> Reading[bool]:
        yield from reader.space()
        if (yield from reader.peek()) == "[":
            return (yield from _list_of_calls(reader))
        return (yield from _named_call(reader))

    yield from _marked(reader, (TOOL_CALLS,), (), call)


def deepseek(reader: CallReader) -> Reading[None]:
    """DeepSeek V3.1: name, separator, arguments. V3 and R1: a kind, separator, name, and the arguments fenced."""

    def call(opener: str) -> Reading[bool]:
        if opener == DEEPSEEK_CALLS:
            yield from reader.space()
            if not (yield from reader.literal(DEEPSEEK_CALL)):
                return False
        name = yield from reader.word("<")
        if name is None or not (yield from reader.literal(DEEPSEEK_SEP)):
            return False
        if name == DEEPSEEK_KIND and (yield from reader.peek()) != "{":
            name = yield from reader.word("\n")
            yield from reader.space()
            if not (yield from reader.literal(FENCE_BEGIN)):
                return False
        if name is None:
            return False
        return (yield from _call_with(reader, name, DEEPSEEK_CALL_END))

    openers = (DEEPSEEK_CALLS, DEEPSEEK_CALL)
    yield from _marked(reader, openers, (FENCE_END, DEEPSEEK_CALL_END, DEEPSEEK_CALLS_END), call)


def bare_json(reader: CallReader) -> Reading[None]:
    """Llama 3, and others without a mark of their own: the answer is an object or several, or they follow a tag."""
    is_marked = False
    while True:
        yield from reader.space()
        if reader.closed_calls and (yield from reader.literal(";")):
            yield from reader.space()
        if (yield from reader.peek()) == "{" and (yield from call_object(reader, is_marked)):
            continue
        reader.say_rest()
        yield from reader.text_until((PYTHON_TAG,))
        is_marked = True


def _marked(
    reader: CallReader, openers: tuple[str, ...], trailing: tuple[str, ...], call: Callable[[str], Reading[bool]]
) -> Reading[None]:
    """Text, and calls that begin with one of `openers`. `call` is told which, and says whether it was one.

    Each of `trailing` belongs to the call before it, once, even if other text comes before it.
    """
    expected: tuple[str, ...] = ()
    while True:
        marker = yield from reader.text_until((*openers, *expected))
        if marker in expected:
            reader.drop()
            expected = tuple(other for other in expected if other != marker)
        elif (yield from call(marker)):
            expected = trailing
        else:
            reader.say()


def _list_of_calls(reader: CallReader) -> Reading[bool]:
    yield from reader.take()
    is_any = False
    while True:
        yield from reader.space()
        if (yield from reader.peek()) != "{" or not (yield from call_object(reader, True)):
            break
        is_any = True
        yield from reader.space()
        if not (yield from reader.literal(",")):
            break
    if is_any and (yield from reader.literal("]")):
        reader.drop()
    elif is_any:
        reader.say_rest()
    return is_any


def _named_call(reader: CallReader) -> Reading[bool]:
    name = yield from reader.word("[{")
    if name is None:
        return False
    if (yield from reader.peek()) == "[":
        yield from reader.take()
        if (yield from reader.peek()) == CALL_ID[1]:
            if not (yield from reader.literal(CALL_ID[1:])) or (yield from reader.word("[")) is None:
                return False
            yield from reader.take()
        if not (yield from reader.literal(ARGS[1:])):
            return False
    return (yield from _call_with(reader, name, ""))


def _call_with(reader: CallReader, name: str, closer: str) -> Reading[bool]:
    """The rest of a call whose name came first: an object of arguments."""
    reader.open(name)
    yield from reader.space()
    if (yield from reader.peek()) == "{":
        yield from arguments(reader, closer)
        reader.drop()
    reader.close()
    return True
