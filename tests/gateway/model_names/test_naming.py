"""What a model's name stands for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.interface import ModelEntry
from gateway.model_names.code_models import CodeModels
from gateway.model_names.naming import Names, parse_aliases
from gateway.routing.route_query import RouteQuery
from gateway.surfaces.ollama.models import ModelList
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import NoWorker, UsageError
from p2pnet.messages import ChatPrompt, GenerateRequest, ImagePart, Message, TextPrompt, Tool

MODELS = (
    ModelEntry("qwen", 0, workers=2),
    ModelEntry("big", 0, workers=5),
    ModelEntry("cold", 0, workers=9, is_warm=False),
    ModelEntry("tagged:latest", 0, workers=1),
    ModelEntry("encoder", 0, workers=7, tasks=("embed",)),
)
ABLE = {("qwen", "generate"), ("big", "generate"), ("cold", "generate"), ("encoder", "embed")}
NAMES = Names(
    {"gpt-4o-mini": "qwen", "any": "auto", "big": "qwen", "short": "tagged"},
    lambda: MODELS,
    lambda query: query.key in ABLE and not ({"tools", "images"} & query.features and query.model == "big"),
)


@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        ("qwen", "qwen"),
        ("gpt-4o-mini", "qwen"),
        ("big", "big"),
        ("auto", "big"),
        ("any", "big"),
        ("nobody", "nobody"),
        ("qwen:latest", "qwen"),
        ("gpt-4o-mini:latest", "qwen"),
        ("big:latest", "big"),
        ("auto:latest", "big"),
        ("any:latest", "big"),
        ("tagged", "tagged:latest"),
        ("tagged:latest", "tagged:latest"),
        ("short", "tagged:latest"),
        ("Qwen", "Qwen"),
        ("nobody:latest", "nobody:latest"),
    ],
)
def test_a_name_stands_for_a_model(name: str, stands_for: str) -> None:
    assert NAMES.resolved(GenerateRequest("r", name, TextPrompt("hi"))).model == stands_for


def test_auto_is_a_model_that_can_do_what_is_asked() -> None:
    prompt = ChatPrompt((Message("user", "hi"),), tools=(Tool("now"),))
    assert NAMES.resolved(GenerateRequest("r", "auto", prompt)).model == "qwen"
    shown = ChatPrompt((Message("user", "hi", images=(ImagePart(b"a"),)),))
    assert NAMES.resolved(GenerateRequest("r", "auto", shown)).model == "qwen"
    assert NAMES.resolved(EmbedRequest("r", "auto", (TextPrompt("hi"),))).model == "encoder"


def test_auto_where_nobody_can_is_no_worker() -> None:
    nobody = Names({}, lambda: MODELS, lambda query: isinstance(query, RouteQuery) and False)
    with pytest.raises(NoWorker):
        nobody.resolved(GenerateRequest("r", "auto", TextPrompt("hi")))


class CountedList(list[ModelEntry]):
    """Counts how often it is gone through."""

    looks = 0

    def __iter__(self) -> Iterator[ModelEntry]:
        self.looks += 1
        return super().__iter__()


def test_while_no_model_comes_or_goes_the_list_is_gone_through_once() -> None:
    """Whatever dialect the requests are in. With another list it is once more."""
    entries = CountedList(MODELS)
    names = Names({"any": "qwen"}, lambda: entries, lambda query: True)
    code_models = CodeModels(lambda: entries, {})
    model_list = ModelList(lambda: entries)
    for _ in range(50):
        names.resolved(GenerateRequest("r", "any", TextPrompt("hi")))
        names.resolved(EmbedRequest("r", "encoder", (TextPrompt("hi"),)))
        code_models.for_completion(None)
        code_models.for_engine("qwen")
        model_list.get("QWEN")
    assert entries.looks == 5, "two of the ids alone, one for the code model, and by id in two spellings"
    entries = CountedList(MODELS[:1])
    assert names.resolved(GenerateRequest("r", "any", TextPrompt("hi"))).model == "qwen"
    assert entries.looks == 1


def test_aliases_are_name_and_model() -> None:
    assert parse_aliases(["a=b", "c=auto"]) == {"a": "b", "c": "auto"}
    for wrong in (["a"], ["=b"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(UsageError):
            parse_aliases(wrong)
