"""What is refused before anybody makes tokens of it."""

from __future__ import annotations

import pytest

from p2pnet.errors import ContextOverflow
from p2pnet.messages import ChatPrompt, GenerateRequest, Message, Prompt, TextPrompt, TokenPrompt
from p2pnet.wire.prompt_size import MAX_TOKEN_CHARS
from p2pnet.worker.backends.served import check_generate
from tests.stories import card

CONTEXT = 100
TOO_LONG = "x" * MAX_TOKEN_CHARS * CONTEXT
FEATURES = ("chat", "text", "tokens", "fim")

SIZES: list[tuple[str, Prompt, bool]] = [
    ("a text", TextPrompt(TOO_LONG), True),
    ("a text that may fit", TextPrompt(TOO_LONG[1:]), False),
    ("a text and what follows", TextPrompt(TOO_LONG[:-9], suffix="x" * 9), True),
    ("a chat", ChatPrompt((Message("user", TOO_LONG),)), True),
    ("a chat in two parts", ChatPrompt((Message("system", TOO_LONG[9:]), Message("user", "x" * 9))), True),
    ("space that a template strips", ChatPrompt((Message("user", " " * len(TOO_LONG)),)), False),
    ("what a template may cut", ChatPrompt((Message("assistant", TOO_LONG),)), False),
    ("as many ids as the context", TokenPrompt((1,) * CONTEXT), True),
    ("one less", TokenPrompt((1,) * (CONTEXT - 1)), False),
]


@pytest.mark.parametrize(("prompt", "is_refused"), [case[1:] for case in SIZES], ids=[case[0] for case in SIZES])
def test_what_cannot_fit_whatever_the_tokenizer_is_refused_by_its_size(prompt: Prompt, is_refused: bool) -> None:
    model = card("m", features=FEATURES, context_length=CONTEXT)
    request = GenerateRequest("r1", "m", prompt)
    if not is_refused:
        check_generate(request, model)
        return
    with pytest.raises(ContextOverflow, match=f"context length is {CONTEXT} .* at least {CONTEXT}") as refused:
        check_generate(request, model)
    assert refused.value.param == "prompt"
