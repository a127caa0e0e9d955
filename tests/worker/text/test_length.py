"""A prompt that cannot fit is refused by its length; one that fits never is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnet.errors import ContextOverflow
from p2pnet.messages import ChatPrompt, Message, Prompt, TextPrompt, Tool
from p2pnet.worker.text.length import check_fits
from p2pnet.worker.text.prompting import encode_prompt
from tests.checkpoints import byte_level_tokenizer

CONTEXT = 64
TOKENIZER = byte_level_tokenizer()
LONG = "A peer is a worker, a bootstrap or a gateway. " * 90_000
"""4 MB."""


class Counting:
    """A tokenizer that remembers how much it was given to read. `swallowed` characters make no token."""

    def __init__(self, swallowed: str = "") -> None:
        self.chars = 0
        self._swallowed = swallowed

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
        self.chars += len(text)
        return {"input_ids": [1 for char in text[::4] if char not in self._swallowed]}


def test_of_a_prompt_far_too_long_only_the_beginning_is_tokenized() -> None:
    tokenizer = Counting()
    with pytest.raises(ContextOverflow) as refused:
        check_fits(LONG, tokenizer, CONTEXT)
    assert tokenizer.chars <= 16 * CONTEXT
    assert refused.value.param == "prompt"
    assert "maximum context length is 64 tokens" in refused.value.message


def test_spaces_without_end_that_the_tokenizer_swallows_are_no_reason() -> None:
    check_fits("Hello." + " " * 1_000_000 + "Bye.", Counting(swallowed=" "), CONTEXT)


@given(st.text(max_size=3 * CONTEXT) | st.text(alphabet=" a", min_size=8 * CONTEXT, max_size=20 * CONTEXT))
def test_what_fits_is_never_refused(text: str) -> None:
    if len(TOKENIZER(text)["input_ids"]) <= CONTEXT:
        check_fits(text, TOKENIZER, CONTEXT)


@pytest.mark.parametrize(
    "prompt",
    [
        TextPrompt(LONG),
        ChatPrompt((Message("user", LONG),)),
        ChatPrompt((Message("system", "Be brief."), Message("assistant", LONG), Message("user", "Go on."))),
        ChatPrompt((Message("user", "Hi"),), (Tool("long", LONG),)),
    ],
    ids=["text", "user", "assistant", "tool"],
)
def test_every_part_of_a_prompt_counts(prompt: Prompt) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = (
        "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
        "{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    with pytest.raises(ContextOverflow):
        encode_prompt(prompt, tokenizer, len(tokenizer), CONTEXT)


def test_what_the_template_leaves_out_does_not_count() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content.split('</think>')[-1] }}{% endfor %}"
    thought = ChatPrompt((Message("assistant", LONG + "</think>42."), Message("user", "Why?")))
    assert tokenizer.decode(encode_prompt(thought, tokenizer, len(tokenizer), CONTEXT)) == "42.Why?"
