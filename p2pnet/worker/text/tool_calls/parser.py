"""Parses tool calls out of one answer while it streams. Pure: knows nothing of tokens, models or clients.

An answer with broken calls is still an answer: what turns out to be no call comes as text, and nothing is lost. A call
that the answer's end cuts off stands as far as it came.
"""

from __future__ import annotations

from hashlib import blake2b

from p2pnet.messages import MAX_TOOLS, ChatPrompt
from p2pnet.worker.text.tool_calls.formats import ToolFormat
from p2pnet.worker.text.tool_calls.reader import AnswerEnded, CallReader, TextOrCall
from p2pnet.worker.text.tool_calls.schemas import properties_of

MAX_CALLS = MAX_TOOLS
"""Calls of one answer: as many as a turn of the next prompt may have. An answer of more is a loop."""


class ToolCallParser:
    """Turns the text of one answer into text and calls. Feed it until `is_done`, then flush once.

    What is returned, joined, does not depend on how the text was cut into pieces.
    """

    def __init__(self, tool_format: ToolFormat, prompt: ChatPrompt, seed: int) -> None:
        """`seed` is the answer's own: with the prompt it decides the calls' ids. Raises InvalidRequest."""
        earlier = sum(len(message.tool_calls) for message in prompt.messages)
        self._reader = CallReader(
            {tool.name: properties_of(tool) for tool in prompt.tools}, lambda index: call_id(seed, earlier + index)
        )
        self._max_calls = MAX_CALLS if prompt.parallel_tool_calls else 1
        self._grammar = tool_format.grammar(self._reader)
        next(self._grammar)

    @property
    def held(self) -> int:
        """How many of the characters fed are not in what was returned yet.

        They are the last ones: after a single character, text that is returned ends right before them. Another parser
        has to be fed with all of an answer's beginning to go on with it.
        """
        return 0 if self.is_done else self._reader.held

    @property
    def has_calls(self) -> bool:
        return self._reader.calls > 0

    @property
    def is_done(self) -> bool:
        """Whether the answer has all the calls that it may have. What comes after the last one is left out."""
        return self._reader.closed_calls >= self._max_calls

    def feed(self, text: str) -> list[TextOrCall]:
        """Take the next piece of the answer, of any length."""
        for char in text:
            if self.is_done:
                break
            self._grammar.send(char)
        return self._reader.collect()

    def flush(self) -> list[TextOrCall]:
        """What was held back, when the answer is over."""
        if not self.is_done:
            try:
                self._grammar.throw(AnswerEnded())
            except AnswerEnded:
                self._reader.end()
        return self._reader.collect()


def call_id(seed: int, position: int) -> str:
    """The id of a call, which is the same whichever worker makes the answer.

    `position` counts all calls of the conversation, or turns with the same seed would repeat ids.
    """
    digest = blake2b(seed.to_bytes(8, "big") + position.to_bytes(8, "big"), digest_size=12, person=b"p2pnet/call/1")
    return f"call_{digest.hexdigest()}"
