"""Which model continues code, as one table."""

from __future__ import annotations

import pytest

from gateway.interface import ModelEntry
from gateway.model_names.code_models import CodeModels, choose_code_model
from p2pnet.errors import ModelNotFound


def entry(name: str, *features: str, tasks: tuple[str, ...] = ("generate",)) -> ModelEntry:
    return ModelEntry(name, 0, 1, tasks=tasks, features=features)


PLAIN = entry("llama", "chat", "text")
CHATS = entry("chatty", "chat")
FILLS = entry("filler", "text", "fim")
CODES = entry("Qwen/Qwen2.5-Coder-7B", "text")
EMBEDS = entry("nomic-embed-code", tasks=("embed",))

CHOSEN: list[tuple[tuple[ModelEntry, ...], str | None]] = [
    ((), None),
    ((EMBEDS,), None),
    ((CHATS,), "chatty"),
    ((CHATS, PLAIN), "llama"),
    ((CHATS, PLAIN, FILLS), "filler"),
    ((CHATS, PLAIN, FILLS, CODES), CODES.id),
    ((CODES, entry("starcoder2:3b", "text", "fim")), "starcoder2:3b"),
    ((CODES, entry("deepseek-coder", "text")), CODES.id),
    ((entry("encoder-decoder"), entry("decoded", "text"), PLAIN), "decoded"),
]


@pytest.mark.parametrize(("entries", "expected"), CHOSEN, ids=lambda value: str(value)[:30])
def test_the_likeliest_is_chosen(entries: tuple[ModelEntry, ...], expected: str | None) -> None:
    assert choose_code_model(entries) == expected


NAMES = [
    (None, "llama", "llama"),
    ("codegen", "llama", "llama"),
    ("fastertransformer|py-model", "llama", "llama"),
    ("chatty", "chatty", "chatty"),
    ("chatty:latest", "chatty:latest", "chatty:latest"),
    ("auto", "auto", "auto"),
]


@pytest.mark.parametrize(("name", "for_completions", "for_engines"), NAMES)
@pytest.mark.parametrize("owners", [None, "llama"])
def test_what_a_name_stands_for(name: str | None, for_completions: str, for_engines: str, owners: str | None) -> None:
    code_models = CodeModels(lambda: [CHATS, PLAIN], {}, owners)
    assert code_models.for_completion(name) == for_completions
    assert code_models.for_engine(name or "") == for_engines


def test_an_engine_that_nobody_has_heard_of_is_none() -> None:
    code_models = CodeModels(lambda: [CHATS, PLAIN], {"mine": "llama", "gone": "gone"})
    assert code_models.for_completion("unheard-of") == "unheard-of"
    assert code_models.for_engine("mine") == "mine"
    for engine in ("unheard-of", "gone"):
        with pytest.raises(ModelNotFound, match=f"The engine '{engine}' does not exist"):
            code_models.for_engine(engine)


def test_the_owners_word_counts_more() -> None:
    code_models = CodeModels(lambda: [CODES], {}, "mine")
    assert (code_models.for_completion("codegen"), code_models.for_engine(CODES.id)) == ("mine", CODES.id)
