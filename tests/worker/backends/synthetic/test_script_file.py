"""Models that a file describes: what they say, the vectors they give, and files that are refused whole."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from p2pnet.answer_forms import JsonFormat
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import InvalidRequest, ModelNotFound, UsageError, WorkerFailed
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    Sampling,
    TextDelta,
    TextPrompt,
    TokenPrompt,
    Tool,
)
from p2pnet.worker.backends.synthetic.script_file import ScriptedModels, open_scripts, read_scripts

MODEL = {
    "model": "m",
    "answers": [
        {"when": "json", "text": "{}"},
        {"when": "result", "text": "done"},
        {"when": "tools", "calls": [{"arguments": {"a": 1}}, {"name": "b", "arguments": "not JSON"}]},
        {"text": "seed $seed"},
    ],
}
TOOLS = (Tool("first"), Tool("b"))


def opened(path: Path, *models: Any, waited: list[float] | None = None) -> ScriptedModels:
    async def sleep(seconds: float) -> None:
        (waited if waited is not None else []).append(seconds)

    path.write_text(json.dumps(models))
    return open_scripts(read_scripts(path), sleep)


def chat(*messages: Message, **fields: Any) -> ChatPrompt:
    return ChatPrompt(messages or (Message("user", "hi"),), **fields)


async def deltas(models: ScriptedModels, request: GenerateRequest) -> list[TextDelta]:
    events = [event async for event in models.backends[0].generate(request)]
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
    return [event for event in events if isinstance(event, TextDelta)]


async def test_the_first_answer_that_fits_is_given(tmp_path: Path) -> None:
    models = opened(tmp_path / "script", MODEL)
    told = Message("tool", "rain", tool_call_id="c")
    for fields, text in (
        ({"prompt": chat(tools=TOOLS), "response_format": JsonFormat()}, "{}"),
        ({"prompt": chat(Message("user", "hi"), told, tools=TOOLS)}, "done"),
        ({"prompt": chat()}, "seed 7"),
        ({"prompt": TextPrompt("hi")}, "seed 7"),
    ):
        request = GenerateRequest("r", "m", sampling=Sampling(seed=7), **fields)  # type: ignore[arg-type]
        assert "".join(delta.text for delta in await deltas(models, request)) == text
    pieces = [p for d in await deltas(models, GenerateRequest("r", "m", chat(tools=TOOLS))) for p in d.tool_calls]
    assert [piece.name for piece in pieces if piece.name] == ["first", "b"]
    assert ["".join(p.arguments for p in pieces if p.index == i) for i in range(2)] == ['{"a":1}', "not JSON"]


async def test_a_model_may_be_slow_and_fail(tmp_path: Path) -> None:
    waited: list[float] = []
    script = {"model": "m", "answers": [{"text": "one two three"}], "token_delay_s": 0.5, "fails_after_tokens": 2}
    models = opened(tmp_path / "script", script, waited=waited)
    with pytest.raises(WorkerFailed):
        await deltas(models, GenerateRequest("r", "m", TextPrompt("hi")))
    assert waited == [0.5] * 3


async def test_without_answers_it_repeats_what_it_is_told(tmp_path: Path) -> None:
    models = opened(tmp_path / "script", {"model": "echo"})
    said = await deltas(models, GenerateRequest("r", "echo", TextPrompt("one two")))
    assert "".join(delta.text for delta in said) == "one two"


async def test_vectors_are_those_of_the_text_and_of_length_1(tmp_path: Path) -> None:
    (embedder,) = opened(tmp_path / "script", {"model": "v", "dimensions": 8}).embedders
    inputs = (TextPrompt("one"), TokenPrompt((1, 2)), TextPrompt("one"))

    async def vectors(dimensions: int | None) -> list[tuple[float, ...]]:
        events = [event async for event in embedder.embed(EmbedRequest("r", "v", inputs, dimensions))]
        return [
            struct.unpack(f"<{len(event.vector) // 4}f", event.vector)
            for event in events
            if isinstance(event, Embedding)
        ]

    whole, cut = await vectors(None), await vectors(4)
    assert whole[0] == whole[2] != whole[1]
    assert [len(vector) for vector in cut] == [4] * 3
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-5) for vector in (*whole, *cut))
    assert cut[0][0] / whole[0][0] == pytest.approx(cut[0][3] / whole[0][3], rel=1e-4)
    with pytest.raises(ModelNotFound):
        [event async for event in embedder.embed(EmbedRequest("r", "other", inputs))]
    with pytest.raises(InvalidRequest, match="only 8 dimensions") as refused:
        await vectors(9)
    assert refused.value.param == "dimensions"


def test_another_script_is_another_digest(tmp_path: Path) -> None:
    scripts = (MODEL, {**MODEL, "answers": [{"text": "other"}]}, {"model": "m", "dimensions": 3})
    models = [read_scripts(_written(tmp_path, script))[0].digest for script in scripts]
    assert len(set(models)) == 3


WRONG: list[Any] = [
    [],
    {},
    [{"model": "a space"}],
    [{"model": "m", "answer": []}],
    [{"model": "m", "answers": [{"when": "never"}]}],
    [{"model": "m", "dimensions": 0}],
    [{"model": "m", "dimensions": 3, "answers": [{"text": "hi"}]}],
]


@pytest.mark.parametrize("script", WRONG, ids=str)
def test_a_script_that_is_none_is_refused_with_a_fix(tmp_path: Path, script: Any) -> None:
    path = tmp_path / "script"
    path.write_text(json.dumps(script))
    with pytest.raises(UsageError) as refused:
        read_scripts(path)
    assert str(path) in refused.value.message and refused.value.fix
    with pytest.raises(UsageError, match="cannot be read"):
        read_scripts(tmp_path / "none")


def _written(folder: Path, script: Any) -> Path:
    path = folder / "script"
    path.write_text(json.dumps([script]))
    return path
