"""What a request may ask for, from the request to the events: each feature does what its field says."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat, RegexFormat
from p2pnet.errors import FeatureMissing, InvalidRequest, P2PNetError
from p2pnet.messages import ChatPrompt, Message, Sampling, TextPrompt, TokenLogprob, TokenPrompt, Tool, choice_seed
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.loading import LoadedModel
from tests.checkpoints import CHAT_TEMPLATE
from tests.worker.answers import Answer, Choice, Models, answer, ask, serve

GREEDY = Sampling(temperature=0)
SAMPLED = Sampling(seed=5)

TOOL_TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }} {{ tool.function.description }}{% endfor %}"
    '{% if tools %} <tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>{% endif %}'
) + CHAT_TEMPLATE
WEATHER = Tool(
    "get_weather",
    "The weather of a city.",
    '{"type": "object", "properties": {"city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["C", "F"]}}, '
    '"required": ["city", "unit"], "additionalProperties": false}',
)
TIME = Tool("get_time", "", '{"type": "object", "properties": {}, "additionalProperties": false}')
SCHEMA = (
    '{"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": false}'
)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A checkpoint that can be given tools, as Hermes is."""
    loaded = Models(tmp_path_factory.mktemp("checkpoints"))("qwen2")
    loaded.tokenizer.chat_template = TOOL_TEMPLATE
    return loaded


@pytest.fixture
async def backend(loaded: LoadedModel) -> AsyncIterator[TransformersBackend]:
    backend = serve(loaded)
    yield backend
    await backend.close()


def one(found: Answer) -> Choice:
    return found.choices[0]


def plain_logprobs(loaded: LoadedModel, ids: tuple[int, ...]) -> torch.Tensor:
    """Of what follows each of these ids, as the model says it in one pass."""
    with torch.inference_mode():
        return torch.log_softmax(loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0], dim=-1)


def check_logprobs(found: tuple[TokenLogprob, ...], ids: tuple[int, ...], expected: torch.Tensor, top: int) -> None:
    """`expected` has a row for each id."""
    assert tuple(entry.token_id for entry in found) == ids
    for entry, row in zip(found, expected, strict=True):
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
        values, likeliest = torch.topk(row, top)
        assert [one.token_id for one in entry.top] == likeliest.tolist()
        assert [one.logprob for one in entry.top] == pytest.approx(values.tolist(), abs=1e-3)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=5, temperature=0.5, top_k=9)], ids=["greedy", "sampled"])
async def test_logprobs_are_the_models_own(
    loaded: LoadedModel, backend: TransformersBackend, sampling: Sampling
) -> None:
    prompt = (5, 60, 70)
    found = one(await answer(backend, ask(TokenPrompt(prompt), sampling=sampling, max_tokens=20, logprobs=3)))
    rows = plain_logprobs(loaded, (*prompt, *found.ids))[len(prompt) - 1 : -1]
    check_logprobs(found.logprobs, found.ids, rows, 3)


async def test_logprobs_none_and_zero(backend: TransformersBackend) -> None:
    assert one(await answer(backend, ask(max_tokens=4))).logprobs == ()
    found = one(await answer(backend, ask(max_tokens=4, logprobs=0)))
    assert [entry.top for entry in found.logprobs] == [()] * 4


@pytest.mark.parametrize("length", [1, 2, 40, 300])
async def test_echo(loaded: LoadedModel, backend: TransformersBackend, length: int) -> None:
    prompt = tuple(range(70, 70 + length))
    fields: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 5, "ignore_eos": True}
    plain = await answer(backend, ask(TokenPrompt(prompt), **fields))
    for logprobs in (None, 0, 2):
        found = await answer(backend, ask(TokenPrompt(prompt), echo=True, logprobs=logprobs, **fields))
        echo = found.echoes[0]
        assert (one(found).ids, one(found).text) == (one(plain).ids, one(plain).text)
        assert echo.ids == prompt
        assert echo.text == loaded.tokenizer.decode(prompt, skip_special_tokens=True)
        assert found.usage.completion_tokens == 5
        if logprobs is None:
            assert echo.logprobs == ()
        else:
            assert (echo.logprobs[0].token_id, echo.logprobs[0].logprob, echo.logprobs[0].top) == (prompt[0], None, ())
            check_logprobs(echo.logprobs[1:], prompt[1:], plain_logprobs(loaded, prompt)[:-1], logprobs)


async def test_choices_are_those_of_single_requests(backend: TransformersBackend) -> None:
    found = await answer(backend, ask(sampling=SAMPLED, n=4, max_tokens=20, logprobs=1, echo=True))
    singles = []
    for index in range(4):
        sampling = msgspec.structs.replace(SAMPLED, seed=choice_seed(5, index))
        singles.append(await answer(backend, ask(sampling=sampling, max_tokens=20, logprobs=1, echo=True)))
    assert [choice.ids for choice in found.choices] == [one(single).ids for single in singles]
    assert [choice.text for choice in found.choices] == [one(single).text for single in singles]
    assert [echo.ids for echo in found.echoes] == [single.echoes[0].ids for single in singles]
    assert found.reasons == tuple(single.reasons[0] for single in singles)
    assert len({choice.ids for choice in found.choices}) == 4
    assert found.usage.completion_tokens == sum(single.usage.completion_tokens for single in singles)
    assert found.usage.prompt_tokens == singles[0].usage.prompt_tokens


async def test_logit_bias(backend: TransformersBackend) -> None:
    only = await answer(backend, ask(sampling=Sampling(logit_bias={70: 100}), max_tokens=6))
    assert one(only).ids == (70,) * 6
    first = one(await answer(backend, ask(sampling=GREEDY, max_tokens=6))).ids[0]
    without = await answer(backend, ask(sampling=Sampling(temperature=0, logit_bias={first: -100}), max_tokens=6))
    assert first not in one(without).ids


async def test_ends(loaded: LoadedModel, backend: TransformersBackend) -> None:
    """The end token would be chosen each time: it is not before `min_tokens`, ends nothing with `ignore_eos`, and is
    counted."""
    (end,) = loaded.end_token_ids
    eager = Sampling(temperature=0, logit_bias={end: 100})
    cases: list[tuple[dict[str, Any], int, str, int]] = [
        ({}, 0, "stop", 1),
        ({"min_tokens": 4}, 4, "stop", 5),
        ({"min_tokens": 4, "max_tokens": 4}, 4, "length", 4),
        ({"ignore_eos": True, "max_tokens": 7}, 7, "length", 7),
        ({"stop_token_ids": (end,), "ignore_eos": True}, 0, "stop", 1),
        ({"stop_token_ids": (end,), "ignore_eos": True, "min_tokens": 3}, 3, "stop", 4),
    ]
    for fields, ids, reason, counted in cases:
        found = await answer(backend, ask(sampling=eager, **{"max_tokens": 9, **fields}))
        assert (len(one(found).ids), found.reasons[0], found.usage.completion_tokens) == (ids, reason, counted), fields


async def test_usage_says_what_was_cached(backend: TransformersBackend) -> None:
    prompt = tuple(range(70, 170))
    first = await answer(backend, ask(TokenPrompt(prompt), sampling=GREEDY, max_tokens=3))
    again = await answer(backend, ask(TokenPrompt(prompt), sampling=GREEDY, max_tokens=3))
    other = await answer(backend, ask(TokenPrompt((*prompt[:50], 5, 5)), sampling=GREEDY, max_tokens=3))
    assert [found.usage.cached_tokens for found in (first, again, other)] == [0, 96, 32]
    assert one(again).ids == one(first).ids
    assert (backend.counts.prefix_hits, backend.counts.cached_tokens) == (2, 128)


async def test_answers_have_their_form(backend: TransformersBackend) -> None:
    for seed in range(4):
        sampling = Sampling(seed=seed)
        found = await answer(backend, ask(sampling=sampling, response_format=JsonSchemaFormat(SCHEMA), max_tokens=60))
        assert found.reasons == ("stop",)
        assert json.loads(one(found).text) in ({"a": "x"}, {"a": "y"})
        loose = await answer(backend, ask(sampling=sampling, response_format=JsonFormat(), max_tokens=60))
        assert one(loose).text.lstrip().startswith("{")
        if loose.reasons == ("stop",):
            assert isinstance(json.loads(one(loose).text), dict)
        matching = await answer(
            backend, ask(sampling=sampling, response_format=RegexFormat("(yes|no)/[0-9]{2}"), max_tokens=60)
        )
        assert re.fullmatch("(yes|no)/[0-9]{2}", one(matching).text)


def chat(**fields: Any) -> ChatPrompt:
    return ChatPrompt((Message("user", "Hello"),), (WEATHER, TIME), **fields)


def calls(choice: Choice) -> list[tuple[str | None, str | None, Any]]:
    """Id, name and arguments of each call, put together of its pieces."""
    arguments: dict[int, str] = {}
    heads = {}
    for piece in choice.pieces:
        if piece.index not in heads:
            heads[piece.index] = (piece.id, piece.name)
        arguments[piece.index] = arguments.get(piece.index, "") + piece.arguments
    return [(*heads[index], json.loads(arguments[index])) for index in sorted(heads)]


def check_call(name: str | None, arguments: Any) -> None:
    assert name in ("get_weather", "get_time")
    if name == "get_time":
        assert arguments == {}
    else:
        assert set(arguments) == {"city", "unit"}
        assert len(arguments["city"]) <= 6
        assert arguments["unit"] in ("C", "F")


@pytest.mark.parametrize("required", [None, "get_weather", "get_time"])
async def test_a_required_tool_is_called(backend: TransformersBackend, required: str | None) -> None:
    for seed in range(3):
        prompt = chat(tool_choice="required", required_tool=required, parallel_tool_calls=False)
        found = await answer(backend, ask(prompt, sampling=Sampling(seed=seed), max_tokens=200))
        assert found.reasons == ("tool_calls",)
        ((call_id, name, arguments),) = calls(one(found))
        assert call_id is not None
        assert required in (None, name)
        check_call(name, arguments)
        assert one(found).text.strip() == ""


async def test_a_call_goes_on_elsewhere_as_it_was(loaded: LoadedModel, backend: TransformersBackend) -> None:
    """From each place where a delta ended, in the middle of names and arguments too."""
    request = ask(chat(tool_choice="required", required_tool="get_weather"), sampling=Sampling(seed=1), max_tokens=90)
    whole = await answer(backend, request)
    assert calls(one(whole))
    other = serve(loaded)
    for ids, chars, pieces in one(whole).clean:
        rest = await answer(other, msgspec.structs.replace(request, resume_tokens=one(whole).ids[:ids]))
        assert one(whole).ids[:ids] + one(rest).ids == one(whole).ids
        assert one(whole).text[:chars] + one(rest).text == one(whole).text
        together = replace(one(rest), pieces=one(whole).pieces[:pieces] + one(rest).pieces)
        assert calls(together) == calls(one(whole))
        assert rest.reasons == whole.reasons
        assert rest.usage.completion_tokens == whole.usage.completion_tokens
    await other.close()


async def test_bytes_that_are_no_character_are_not_said_again(
    backend: TransformersBackend, loaded: LoadedModel
) -> None:
    """A lone continuation byte is sent once three tokens have followed it. Whoever goes on from there has seen it."""
    (lone,) = loaded.tokenizer.convert_tokens_to_ids(["Ģ"])
    sampling = Sampling(seed=3, logit_bias={lone: 100})
    whole = one(await answer(backend, ask(sampling=sampling, max_tokens=9)))
    assert whole.ids == (lone,) * 9
    for ids, chars, _ in whole.clean:
        request = ask(sampling=sampling, max_tokens=9, resume_tokens=whole.ids[:ids])
        rest = one(await answer(backend, request))
        assert (whole.ids[:ids] + rest.ids, whole.text[:chars] + rest.text) == (whole.ids, whole.text)


BEYOND = 1 << 20
REFUSED: list[tuple[str, dict[str, Any], type[P2PNetError], str | None]] = [
    ("a format and tools", {"prompt": chat(), "response_format": JsonFormat()}, InvalidRequest, "response_format"),
    ("resuming several", {"resume_tokens": (5,), "n": 2}, InvalidRequest, "resume_tokens"),
    ("resuming an echo", {"resume_tokens": (5,), "echo": True}, InvalidRequest, "resume_tokens"),
    ("resuming past the end", {"resume_tokens": (5,) * 9, "max_tokens": 8}, InvalidRequest, "resume_tokens"),
    ("resuming unknown ids", {"resume_tokens": (BEYOND,)}, InvalidRequest, "resume_tokens"),
    (
        "resuming another form",
        {"resume_tokens": (70, 71), "response_format": JsonFormat()},
        InvalidRequest,
        "resume_tokens",
    ),
    ("biasing unknown ids", {"sampling": Sampling(logit_bias={BEYOND: 1})}, InvalidRequest, "logit_bias"),
    ("stopping at unknown ids", {"stop_token_ids": (BEYOND,)}, InvalidRequest, "stop_token_ids"),
    ("no such tool", {"prompt": chat(tool_choice="required", required_tool="x")}, InvalidRequest, "tool_choice"),
    ("no schema", {"response_format": JsonSchemaFormat("{]")}, InvalidRequest, "response_format"),
]


@pytest.mark.parametrize(
    ("fields", "error", "param"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_refused(
    backend: TransformersBackend, fields: dict[str, Any], error: type[P2PNetError], param: str | None
) -> None:
    with pytest.raises(error) as refused:
        await anext(
            backend.generate(ask(fields.get("prompt", "Once"), **{k: v for k, v in fields.items() if k != "prompt"}))
        )
    assert getattr(refused.value, "param", None) == param


async def test_what_the_card_lacks_is_refused(tmp_path: Any) -> None:
    """GPT-2 has no chat template, so it neither chats nor calls."""
    backend = serve(Models(tmp_path)("gpt2"))
    features = backend.models[0].features
    for prompt, feature in ((ChatPrompt((Message("user", "Hi"),)), "chat"), (chat(), "tools")):
        assert feature not in features
        with pytest.raises(FeatureMissing):
            await anext(backend.generate(ask(prompt)))
    assert (await answer(backend, ask(TextPrompt("Hi"), max_tokens=2))).finished
    await backend.close()
