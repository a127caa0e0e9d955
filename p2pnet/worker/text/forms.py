"""Finds the form that a request asks its answers to have: JSON, a schema, tool calls. Knows nothing of sequences."""

from __future__ import annotations

from functools import cached_property

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat, RegexFormat
from p2pnet.errors import InvalidRequest
from p2pnet.messages import ChatPrompt, GenerateRequest
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.text.grammar import ConstraintFactory, GrammarCompiler
from p2pnet.worker.text.prompting import tool_format
from p2pnet.worker.text.tool_calls.forced_calls import forced_calls, lark
from p2pnet.worker.text.tool_calls.parser import ToolCallParser
from p2pnet.worker.text.vocabulary import Vocabulary


class Forms:
    """The forms that one model's answers can be held to. Not for several threads at the same time."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.vocabulary = Vocabulary(loaded.tokenizer, loaded.vocabulary_size)
        self._end_token_ids = loaded.end_token_ids
        self._tools = tool_format(loaded.tokenizer)

    @property
    def has_tools(self) -> bool:
        return self._tools is not None

    @cached_property
    def markers(self) -> dict[int, str]:
        """Control tokens that say where a call begins and ends. They are text for whoever looks for calls."""
        known = self.vocabulary.control_tokens
        markers = self._tools.markers if self._tools is not None else ()
        return {known[marker]: marker for marker in markers if marker in known}

    def constraint(self, request: GenerateRequest) -> ConstraintFactory | None:
        """A factory of the constraint of each answer. Raises InvalidRequest or FeatureMissing."""
        prompt, wanted = request.prompt, request.response_format
        if isinstance(prompt, ChatPrompt) and prompt.tools and prompt.tool_choice != "none":
            if wanted is not None:
                raise InvalidRequest("An answer can have a format or call tools, not both.", "response_format")
            return self._forced_call(prompt) if prompt.tool_choice == "required" else None
        if isinstance(prompt, ChatPrompt) and prompt.tool_choice == "required":
            raise InvalidRequest("There is no tool that could be called.", "tool_choice")
        if wanted is None:
            return None
        match wanted:
            case JsonFormat():
                return self._compiler.json_object()
            case JsonSchemaFormat(schema):
                return self._compiler.json_schema(schema)
            case RegexFormat(pattern):
                return self._compiler.regex(pattern)

    def parser(self, request: GenerateRequest, seed: int) -> ToolCallParser | None:
        """A parser that finds the calls in one answer, if it may have any. Raises InvalidRequest."""
        prompt = request.prompt
        if self._tools is None or not isinstance(prompt, ChatPrompt):
            return None
        return ToolCallParser(self._tools, prompt, seed) if prompt.tools and prompt.tool_choice != "none" else None

    def _forced_call(self, prompt: ChatPrompt) -> ConstraintFactory:
        assert self._tools is not None  # the feature was checked
        ids = {text: token_id for token_id, text in self.markers.items()}
        return self._compiler.grammar(lark(forced_calls(self._tools, prompt), ids), "tools")

    @cached_property
    def _compiler(self) -> GrammarCompiler:
        """The compiler. It is made when it is first needed, because it reads the whole vocabulary once more."""
        return GrammarCompiler(self.vocabulary, self._end_token_ids)
