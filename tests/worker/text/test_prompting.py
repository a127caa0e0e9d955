"""Tools, calls and their results are shown to the model as its chat template shows them."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2.exceptions import SecurityError

from p2pnet.errors import InvalidRequest
from p2pnet.messages import ChatPrompt, Message, Prompt, TextPrompt, Tool, ToolCall
from p2pnet.thought_tags import TAGS
from p2pnet.worker.text.prompting import begins_thinking, encode_prompt, has_tools, tool_format
from p2pnet.worker.text.tool_calls.formats import (
    BARE_JSON,
    DEEPSEEK,
    HERMES,
    LLAMA,
    MISTRAL_LIST,
    MISTRAL_NAMED,
    ToolFormat,
)
from tests.checkpoints import CHAT_TEMPLATE, byte_level_tokenizer

# What the families' templates do with tools and calls, without what has no part in that.

HERMES_TEMPLATE = (
    "{% if tools %}<|system|>You may call these:{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}"
    '{{ "\n" }}Answer with <tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>\n{% endif %}'
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}<|user|><tool_response>\n{{ message.content }}\n</tool_response>\n"
    "{% else %}<|{{ message.role }}|>{{ message.content }}"
    "{% for tool_call in message.tool_calls or [] %}{% set call = tool_call.function %}"
    '<tool_call>\n{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LLAMA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>{{ message.content | tojson }}<|eot_id|>"
    "{% elif 'tool_calls' in message %}"
    "{% if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set call = message.tool_calls[0].function %}<|start_header_id|>assistant<|end_header_id|>"
    '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>'
    "{% else %}<|start_header_id|>{{ message.role }}<|end_header_id|>"
    "{% if tools and loop.first %}Respond with JSON for a function call."
    "{% for tool in tools %}{{ tool | tojson(indent=4) }}{% endfor %}{% endif %}"
    "{{ message.content }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}"
    "{% if tools and loop.last %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST]{{ message.content }}[/INST]"
    "{% elif message.tool_calls is defined %}[TOOL_CALLS][{% for call in message.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    '{{ (call.function | tojson)[:-1] }}, "id": "{{ call.id }}"}{% endfor %}]'
    "{% elif message.role == 'tool' %}"
    "{% if message.tool_call_id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    '[TOOL_RESULTS]{"content": {{ message.content }}, "call_id": "{{ message.tool_call_id }}"}[/TOOL_RESULTS]'
    "{% else %}{{ message.content }}{% endif %}{% endfor %}"
)
MISTRAL_NAMED_TEMPLATE = MISTRAL_TEMPLATE.replace("[TOOL_CALLS][", "[TOOL_CALLS]{# name #}[ARGS]")
DEEPSEEK_TEMPLATE = (
    "{{ tools | tojson }}{% for message in messages %}{{ '<｜' + message.role + '｜>' + message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ '<｜tool▁call▁begin｜>' + call.function.name + '<｜tool▁sep｜>' + call.function.arguments }}<｜tool▁call▁end｜>"
    "{% endfor %}{% endfor %}"
)

CONTEXT = 4096
SCHEMA = '{"type": "object", "properties": {"city": {"type": "string"}}}'
WEATHER = Tool("get_weather", "The weather.", SCHEMA)
CALL = ToolCall("call_0123456789abcdef01234567", "get_weather", '{"city": "Köln"}')
TURNS = (
    Message("user", "Weather?"),
    Message("assistant", "", (CALL,)),
    Message("tool", '{"sun": true}', tool_call_id=CALL.id, name="get_weather"),
)


def tokenizer_with(template: Any) -> Any:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def shown(template: Any, prompt: ChatPrompt) -> str:
    """What the model reads."""
    tokenizer = tokenizer_with(template)
    text: str = tokenizer.decode(encode_prompt(prompt, tokenizer, len(tokenizer), CONTEXT))
    return text


THINKING_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}<think>\n"
HI = ChatPrompt((Message("user", "Hi"),))

OPENED: list[tuple[str, str, Prompt, bool]] = [
    ("a template that opens them", THINKING_TEMPLATE, HI, True),
    *((f"one that opens them with {tags.begin}", "a" + tags.begin + "\n", HI, bool(tags.end)) for tags in TAGS),
    ("one that closes them", THINKING_TEMPLATE + "\n</think>\n\n", HI, False),
    ("one that does not", "{{ messages[0].content }}", HI, False),
    ("a required call", THINKING_TEMPLATE, ChatPrompt(HI.messages, (WEATHER,), "required"), False),
    ("a text", THINKING_TEMPLATE, TextPrompt("<think>"), False),
]


@pytest.mark.parametrize(
    ("template", "prompt", "is_opened"), [case[1:] for case in OPENED], ids=[case[0] for case in OPENED]
)
def test_whether_the_prompt_has_opened_the_thoughts(template: str, prompt: Prompt, is_opened: bool) -> None:
    tokenizer = tokenizer_with(template)
    ids = encode_prompt(prompt, tokenizer, len(tokenizer), CONTEXT)
    assert begins_thinking(prompt, ids, tokenizer) == is_opened


def test_tools_as_openai_words_them() -> None:
    expected = (
        '{"type": "function", "function": {"name": "get_weather", "description": "The weather.", '
        '"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}'
    )
    assert f"these:\n{expected}\nAnswer" in shown(HERMES_TEMPLATE, ChatPrompt(TURNS[:1], (WEATHER,)))


@pytest.mark.parametrize("template", [HERMES_TEMPLATE, LLAMA_TEMPLATE, MISTRAL_TEMPLATE])
def test_tools_are_not_shown_where_none_may_be_called(template: str) -> None:
    with_tools = ChatPrompt(TURNS[:1], (WEATHER,))
    without = ChatPrompt(TURNS[:1], (WEATHER,), tool_choice="none")
    assert "get_weather" in shown(template, with_tools)
    assert shown(template, without) == shown(template, ChatPrompt(TURNS[:1]))


@pytest.mark.parametrize(
    ("template", "call", "result"),
    [
        (
            HERMES_TEMPLATE,
            '<|assistant|><tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>\n',
            '<tool_response>\n{"sun": true}\n</tool_response>',
        ),
        (
            LLAMA_TEMPLATE,
            '{"name": "get_weather", "parameters": {"city": "Köln"}}<|eot_id|>',
            'ipython<|end_header_id|>"{',
        ),
        (
            MISTRAL_TEMPLATE,
            '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Köln"}, "id": "17dee1fa2"}]',
            '[TOOL_RESULTS]{"content": {"sun": true}, "call_id": "17dee1fa2"}[/TOOL_RESULTS]',
        ),
        (
            DEEPSEEK_TEMPLATE,
            '<｜assistant｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Köln"}<｜tool▁call▁end｜>',
            '<｜tool｜>{"sun": true}',
        ),
    ],
    ids=["hermes", "llama", "mistral", "deepseek"],
)
def test_turns_with_calls_and_results(template: str, call: str, result: str) -> None:
    text = shown(template, ChatPrompt(TURNS, (WEATHER,)))
    assert call in text
    assert result in text[text.index(call) :]


def test_results_have_the_name_of_their_tool() -> None:
    template = "{% for message in messages %}<{{ message.name | default('-') }}>{% endfor %}"
    result = Message("tool", "1", tool_call_id=CALL.id)
    other = Message("tool", "1", tool_call_id="other")
    named = Message("tool", "1", tool_call_id=CALL.id, name="mine")
    assert shown(template, ChatPrompt((*TURNS[:2], result, other, named))) == "<-><-><get_weather><-><mine>"


def test_arguments_that_are_no_object_stay_what_they_were() -> None:
    for arguments, words in [('{"city": ', '"{\\"city\\": "'), ("[1]", '"[1]"'), ("", "{}"), ("[" * 5000, '"[[')]:
        turn = Message("assistant", "", (ToolCall("a", "x", arguments),))
        text = shown(HERMES_TEMPLATE, ChatPrompt((turn,)))
        assert f'"arguments": {words}' in text


def test_ids_that_mistral_takes_stay_and_others_are_told_apart() -> None:
    ids = ["abcDEF123", "call_1", "call_2", "äöüäöüäöü"]
    calls = tuple(ToolCall(call_id, "x", "{}") for call_id in ids)
    text = shown(MISTRAL_TEMPLATE, ChatPrompt((Message("assistant", "", calls),)))
    seen = [part[:9] for part in text.split('"id": "')[1:]]
    assert seen[0] == ids[0]
    assert len(set(seen)) == 4 and all(part.isalnum() and part.isascii() for part in seen)


@pytest.mark.parametrize(
    ("prompt", "words", "param"),
    [
        (ChatPrompt(TURNS[:1], (Tool("x", "", "{"),)), "tool 'x' are not a JSON object", "tools"),
        (ChatPrompt(TURNS[:1], (Tool("x", "", "[]"),)), "tool 'x' are not a JSON object", "tools"),
        (ChatPrompt(TURNS[:1], (Tool("x", "", "[" * 60_000),)), "tool 'x' are not a JSON object", "tools"),
        (ChatPrompt(TURNS[:1], (Tool("x", "", " " * 70_000),)), "tool 'x' are too long", "tools"),
        (ChatPrompt(TURNS[:1], (Tool("x", "", "{"),)), "tool 'x' are not a JSON object", "tools"),
        (ChatPrompt(TURNS[:1], (Tool("x", "", ""),), tool_choice="none"), "tool 'x' are not a JSON object", "tools"),
        (ChatPrompt(TURNS[:1], (WEATHER, WEATHER)), "same name", "tools"),
        (ChatPrompt(TURNS[:1], tool_choice="required"), "not among the tools", "tool_choice"),
        (ChatPrompt(TURNS[:1], (WEATHER,), "required", "x"), "not among the tools", "tool_choice"),
        (ChatPrompt((Message("user", "Hi"), Message("assistant", "", (CALL, CALL)))), "one call at a time", "messages"),
        (ChatPrompt(TURNS[:1], (Tool("x", "", '{"a":' * 500 + "1" + "}" * 500),)), "nested too deeply", "tools"),
    ],
)
def test_refused(prompt: ChatPrompt, words: str, param: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        shown(LLAMA_TEMPLATE, prompt)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("template", "known"),
    [
        (HERMES_TEMPLATE, HERMES),
        (LLAMA_TEMPLATE, LLAMA),
        (MISTRAL_TEMPLATE, MISTRAL_LIST),
        (MISTRAL_NAMED_TEMPLATE, MISTRAL_NAMED),
        (DEEPSEEK_TEMPLATE, DEEPSEEK),
        ({"default": CHAT_TEMPLATE, "tool_use": HERMES_TEMPLATE}, HERMES),
        ({"default": "{{ tools | tojson }}"}, BARE_JSON),
    ],
)
def test_templates_with_tools(template: Any, known: ToolFormat) -> None:
    tokenizer = tokenizer_with(template)
    assert has_tools(tokenizer)
    assert tool_format(tokenizer) is known


@pytest.mark.parametrize(
    "template",
    [
        None,
        CHAT_TEMPLATE,
        "{% if tools %}You have {{ tools | length }} tools.{% endif %}",
        "{{ raise_exception('never') }}{{ tools }}",
        "{{ tools.missing.name }}",
        "{{ tools + 1 }}",
        "{% for",
        {"other": HERMES_TEMPLATE},
    ],
)
def test_templates_without_tools(template: Any) -> None:
    tokenizer = tokenizer_with(template)
    assert not has_tools(tokenizer)
    assert tool_format(tokenizer) is None


def test_templates_whose_calls_we_do_not_read() -> None:
    tokenizer = tokenizer_with("{{ tools | tojson }}<tool_call>name\n<arg_key>key</arg_key>")
    assert has_tools(tokenizer)
    assert tool_format(tokenizer) is None


@pytest.mark.parametrize(
    "escape",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
    ],
)
def test_templates_are_kept_in_a_sandbox(escape: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        shown(escape, ChatPrompt(TURNS[:1]))
    assert isinstance(refused.value.__cause__, SecurityError)
