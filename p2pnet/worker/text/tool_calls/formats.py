"""Lists the formats in which models write tool calls, and finds that of a chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2pnet.worker.text.tool_calls import grammars
from p2pnet.worker.text.tool_calls.parameter_calls import FUNCTION, FUNCTION_END, PARAMETER, PARAMETER_END
from p2pnet.worker.text.tool_calls.reader import CallReader, Reading


@dataclass(frozen=True)
class Layout:
    """What an answer of nothing but calls looks like: begin, call, (between, call)*, end.

    A call is `before`, its name, `after_name`, its arguments, `after`; a name in quotes is escaped. `between` None: the
    format has one call only.
    """

    before: str
    after_name: str
    after: str
    begin: str = ""
    between: str | None = ""
    end: str = ""
    has_parameter_tags: bool = False


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes its calls.

    `markers` are what the grammar has to see: some are special tokens in the families' tokenizers, which decoding
    leaves out. `signs` are texts that are all in a chat template that asks for this format. `has_short_ids` says that
    the template takes only call ids of nine letters and digits.
    """

    name: str
    grammar: Callable[[CallReader], Reading[None]]
    markers: tuple[str, ...]
    signs: tuple[str, ...]
    layout: Layout
    has_short_ids: bool = False


_DEEPSEEK_MARKERS = (
    grammars.DEEPSEEK_CALLS,
    grammars.DEEPSEEK_CALL,
    grammars.DEEPSEEK_SEP,
    grammars.DEEPSEEK_CALL_END,
    grammars.DEEPSEEK_CALLS_END,
)
_MISTRAL_MARKERS = (grammars.TOOL_CALLS, grammars.CALL_ID, grammars.ARGS)

QWEN_CODER = ToolFormat(
    "qwen-coder",
    grammars.qwen_coder,
    (grammars.TOOL_CALL, grammars.TOOL_CALL_END, FUNCTION, FUNCTION_END, PARAMETER, PARAMETER_END),
    (grammars.TOOL_CALL, FUNCTION, PARAMETER),
    Layout(
        before=f"{grammars.TOOL_CALL}\n{FUNCTION}",
        after_name=">\n",
        after=f"{FUNCTION_END}\n{grammars.TOOL_CALL_END}",
        between="\n",
        has_parameter_tags=True,
    ),
)
HERMES = ToolFormat(
    "hermes",
    grammars.hermes,
    (grammars.TOOL_CALL, grammars.TOOL_CALL_END),
    (grammars.TOOL_CALL,),
    Layout(
        before=f'{grammars.TOOL_CALL}\n{{"name": "',
        after_name='", "arguments": ',
        after=f"}}\n{grammars.TOOL_CALL_END}",
        between="\n",
    ),
)
MISTRAL_NAMED = ToolFormat(
    "mistral-named",
    grammars.mistral,
    _MISTRAL_MARKERS,
    (grammars.TOOL_CALLS, grammars.ARGS),
    Layout(before=grammars.TOOL_CALLS, after_name=grammars.ARGS, after=""),
    has_short_ids=True,
)
MISTRAL_LIST = ToolFormat(
    "mistral-list",
    grammars.mistral,
    _MISTRAL_MARKERS,
    (grammars.TOOL_CALLS,),
    Layout(
        begin=f"{grammars.TOOL_CALLS}[",
        before='{"name": "',
        after_name='", "arguments": ',
        after="}",
        between=", ",
        end="]",
    ),
    has_short_ids=True,
)
DEEPSEEK_FENCED = ToolFormat(
    "deepseek-fenced",
    grammars.deepseek,
    _DEEPSEEK_MARKERS,
    (grammars.DEEPSEEK_CALL, grammars.FENCE_BEGIN),
    Layout(
        begin=grammars.DEEPSEEK_CALLS,
        before=f"{grammars.DEEPSEEK_CALL}{grammars.DEEPSEEK_KIND}{grammars.DEEPSEEK_SEP}",
        after_name=f"\n{grammars.FENCE_BEGIN}\n",
        after=f"\n{grammars.FENCE_END}{grammars.DEEPSEEK_CALL_END}",
        between="\n",
        end=grammars.DEEPSEEK_CALLS_END,
    ),
)
DEEPSEEK = ToolFormat(
    "deepseek",
    grammars.deepseek,
    _DEEPSEEK_MARKERS,
    (grammars.DEEPSEEK_CALL,),
    Layout(
        begin=grammars.DEEPSEEK_CALLS,
        before=grammars.DEEPSEEK_CALL,
        after_name=grammars.DEEPSEEK_SEP,
        after=grammars.DEEPSEEK_CALL_END,
        end=grammars.DEEPSEEK_CALLS_END,
    ),
)
LLAMA = ToolFormat(
    "llama",
    grammars.bare_json,
    (grammars.PYTHON_TAG,),
    ("<|start_header_id|>",),
    Layout(before='{"name": "', after_name='", "parameters": ', after="}", between=None),
)
BARE_JSON = ToolFormat(
    "json",
    grammars.bare_json,
    (grammars.PYTHON_TAG,),
    (),
    Layout(before='{"name": "', after_name='", "arguments": ', after="}", between=None),
)
"""For templates that ask for JSON without marks of their own: no signs."""

FORMATS = (QWEN_CODER, HERMES, MISTRAL_NAMED, MISTRAL_LIST, DEEPSEEK_FENCED, DEEPSEEK, LLAMA, BARE_JSON)
"""In the order in which a template is held against their signs."""

_FOREIGN_SIGNS = (
    "<arg_key>",  # GLM
    "<|tool_call|>",  # Granite, Phi
    "<|tool_call>",  # Gemma
    "<|tool_call_begin|>",  # Kimi
    "<|tool_call_start|>",  # LFM
    "<|channel|>",  # gpt-oss
    "<|action_start|>",  # InternLM
    "<|START_ACTION|>",  # Command R
    "<seed:tool_call>",  # Seed
    "<minimax:tool_call>",  # MiniMax
    "<tool_calls>",  # Jamba, Hunyuan
    "<TOOLCALL>",  # Nemotron
    "｜DSML｜",  # DeepSeek V3.2
    "func_name1(",  # calls as Python, as Llama 4 and others have
)
"""What templates have that ask for calls in a form which we do not read."""


def find_format(template: str) -> ToolFormat | None:
    """The format that a chat template asks for, or None when it asks for one that we do not read."""
    if any(sign in template for sign in _FOREIGN_SIGNS):
        return None
    return next(known for known in FORMATS if all(sign in template for sign in known.signs))
