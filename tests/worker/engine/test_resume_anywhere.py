"""An answer goes on at another worker from wherever a delta ended, and nobody can tell: what a gateway relies on.

Each answer is made once undisturbed, and then from each of its places by another backend: ids, text, logprobs, calls of
tools, the reason and the usage are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import torch

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.messages import (
    ChatPrompt,
    GenerateRequest,
    Message,
    Prompt,
    Sampling,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolCallDelta,
    choice_seed,
)
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.text.vocabulary import Vocabulary
from tests.checkpoints import CHAT_TEMPLATE
from tests.worker.answers import Answer, Choice, Models, answer, serve

NAMES = ("tiny", "llama", "qwen2")
GREEDY = Sampling(temperature=0)
SAMPLED = Sampling(seed=7)
LOGPROB_TOLERANCE = 1e-3
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
    '{"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "string", "maxLength": 5}}, '
    '"required": ["a", "b"], "additionalProperties": false}'
)
TEXT = TextPrompt("The quick brown")
HELLO = ChatPrompt((Message("user", "Hello"),))


@dataclass(frozen=True)
class Pair:
    """A worker, and another one with the same digest."""

    loaded: LoadedModel
    one: TransformersBackend
    other: TransformersBackend


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(params=NAMES)
async def pair(models: Models, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    loaded = models(request.param)
    loaded.tokenizer.chat_template = TOOL_TEMPLATE
    one, other = serve(loaded), serve(loaded)
    yield Pair(loaded, one, other)
    await one.close()
    await other.close()


def ask(prompt: Prompt = TEXT, **fields: Any) -> GenerateRequest:
    return GenerateRequest("r", "m", prompt, **{"max_tokens": 14, "ignore_eos": True, **fields})


async def go_on(pair: Pair, asked: GenerateRequest, whole: Answer, place: tuple[int, int, int]) -> None:
    ids, chars, pieces = place
    before = whole.choices[0]
    resumed = msgspec.structs.replace(asked, resume_tokens=asked.resume_tokens + before.ids[:ids])
    rest = await answer(pair.other, resumed)
    after = rest.choices[0]
    together = Choice(
        before.ids[:ids] + after.ids,
        before.text[:chars] + after.text,
        before.logprobs[:ids] + after.logprobs,
        before.pieces[:pieces] + after.pieces,
        before.clean,
    )
    how = f"after {ids} of {len(before.ids)} tokens: {asked}"
    compare(before, together, how)
    assert rest.reasons == whole.reasons, how
    assert cost(rest) == cost(whole), how


def cost(found: Answer) -> tuple[int, int]:
    """What the same request costs whoever has computed how much of it before."""
    return found.usage.prompt_tokens, found.usage.completion_tokens


def compare(expected: Choice, found: Choice, how: str) -> None:
    assert found.ids == expected.ids, how
    assert found.text == expected.text, how
    assert calls(found.pieces) == calls(expected.pieces), how
    assert [entry.token_id for entry in found.logprobs] == [entry.token_id for entry in expected.logprobs], how
    for one, other in zip(expected.logprobs, found.logprobs, strict=True):
        assert one.logprob is not None and other.logprob is not None
        assert abs(one.logprob - other.logprob) < LOGPROB_TOLERANCE, how
        assert [likely.token_id for likely in one.top] == [likely.token_id for likely in other.top], how


def calls(pieces: tuple[ToolCallDelta, ...]) -> list[tuple[int, str | None, str | None, str]]:
    """Index, id, name and arguments of each call: only its first piece may have id and name."""
    found: dict[int, list[ToolCallDelta]] = {}
    for piece in pieces:
        found.setdefault(piece.index, []).append(piece)
    assert all(piece.id is None and piece.name is None for first, *others in found.values() for piece in others)
    return [
        (index, first.id, first.name, "".join(piece.arguments for piece in (first, *others)))
        for index, (first, *others) in found.items()
    ]


async def check_everywhere(pair: Pair, asked: GenerateRequest) -> Answer:
    """From every place, all at the same time; returns the undisturbed answer."""
    whole = await answer(pair.one, asked)
    await asyncio.gather(*(go_on(pair, asked, whole, place) for place in whole.choices[0].clean))
    return whole


def stop_within_a_token(choice: Choice) -> str:
    """Two characters of the answer that begin within one of its later tokens."""
    starts = [0, *(chars for _, chars, _ in choice.clean)]
    for begin, end in list(pairwise(starts))[4:]:
        if end - begin > 2:
            return choice.text[begin + 1 : begin + 3]
    return choice.text[-2:]


PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("a text", {}),
    ("a chat", {"prompt": HELLO}),
    ("ids", {"prompt": TokenPrompt((70, 71, 72))}),
    ("one token", {"max_tokens": 1}),
    ("logprobs", {"logprobs": 2}),
    ("to its own end", {"ignore_eos": False, "max_tokens": 30}),
    ("JSON", {"response_format": JsonFormat(), "max_tokens": 24, "ignore_eos": False}),
    ("a schema", {"response_format": JsonSchemaFormat(SCHEMA), "max_tokens": 40, "ignore_eos": False}),
    ("a schema, with logprobs", {"response_format": JsonSchemaFormat(SCHEMA), "max_tokens": 9, "logprobs": 0}),
]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_plain_answers(pair: Pair, sampling: Sampling) -> None:
    for _, fields in PLAIN:
        whole = await check_everywhere(pair, ask(sampling=sampling, **fields))
        assert whole.choices[0].clean


async def test_penalties_and_other_ways_to_choose(pair: Pair) -> None:
    for fields in (
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.5, "frequency_penalty": 0.7},
        {"top_k": 7, "min_p": 0.02, "temperature": 1.5},
        {"top_p": 0.7, "logit_bias": {70: 3.0, 80: -5.0}},
    ):
        await check_everywhere(pair, ask(sampling=Sampling(seed=3, **fields), logprobs=0))


async def test_stop_strings(pair: Pair) -> None:
    """What a token said before a stop string began within it comes without ids, and again from wherever one goes on."""
    loose = 0
    for seed in range(4):
        plain = ask(sampling=Sampling(seed=seed), max_tokens=24)
        choice = (await answer(pair.one, plain)).choices[0]
        for stop in ((stop_within_a_token(choice),), (choice.text[-3:], "\x00 never"), (choice.text[8:10] + "\x00",)):
            found = (await check_everywhere(pair, msgspec.structs.replace(plain, stop=stop, logprobs=0))).choices[0]
            assert not any(one in found.text for one in stop)
            loose += bool(found.clean) and found.clean[-1][1] < len(found.text)
    assert loose


async def test_ends(pair: Pair) -> None:
    """End tokens, forbidden for a while; tokens that end the text; a limit that is met."""
    end = min(pair.loaded.end_token_ids)
    eager = Sampling(temperature=0, logit_bias={end: 100})
    ids = (await answer(pair.one, ask(sampling=SAMPLED))).choices[0].ids
    cases: list[tuple[dict[str, Any], str]] = [
        ({"sampling": eager, "ignore_eos": False, "min_tokens": 5}, "stop"),
        ({"sampling": eager, "ignore_eos": False, "min_tokens": 5, "max_tokens": 5}, "length"),
        ({"sampling": eager, "max_tokens": 5}, "length"),
        ({"sampling": SAMPLED, "stop_token_ids": (ids[9],)}, "stop"),
        ({"sampling": SAMPLED, "stop_token_ids": (ids[9],), "min_tokens": 12, "max_tokens": 12}, "length"),
    ]
    for fields, reason in cases:
        assert (await check_everywhere(pair, ask(**fields))).reasons == (reason,), fields


def byte_tokens(loaded: LoadedModel, text: str) -> list[int]:
    """The ids of the single bytes of a text."""
    vocabulary = Vocabulary(loaded.tokenizer, loaded.vocabulary_size)
    ids = {vocabulary.token_bytes(token_id): token_id for token_id in reversed(range(vocabulary.size))}
    return [ids[bytes([byte])] for byte in text.encode()]


async def test_characters_of_several_tokens(pair: Pair) -> None:
    """Whole ones and broken ones, with words between."""
    word = pair.loaded.tokenizer("dog")["input_ids"][-1]
    bias = dict.fromkeys([*byte_tokens(pair.loaded, "語é"), word], 60.0)
    texts = ""
    for seed in range(4):
        asked = ask(sampling=Sampling(seed=seed, temperature=50, logit_bias=bias), max_tokens=40)
        texts += (await check_everywhere(pair, asked)).choices[0].text
    assert "\N{REPLACEMENT CHARACTER}" in texts


def chat(**fields: Any) -> ChatPrompt:
    return ChatPrompt((Message("user", "Hello"),), (WEATHER, TIME), **fields)


FORCED = [
    chat(tool_choice="required"),
    chat(tool_choice="required", required_tool="get_weather", parallel_tool_calls=False),
]


async def test_tool_calls(pair: Pair) -> None:
    for prompt in FORCED:
        asked = ask(prompt, sampling=Sampling(seed=1), max_tokens=80, ignore_eos=False, logprobs=0)
        whole = await check_everywhere(pair, asked)
        assert calls(whole.choices[0].pieces)


BEGUN = [
    "Sure, let me see. <tool",
    'Sure.\n<tool_call>\n{"name": "get_w',
    'Sure.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "un',
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n',
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "get_weather", "argu',
]


async def test_calls_that_the_model_begins_itself(pair: Pair) -> None:
    """Text before, in and after a call: what a model without training would never write is given as its beginning."""
    for text in BEGUN:
        begun = tuple(pair.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        asked = ask(chat(), sampling=SAMPLED, max_tokens=len(begun) + 12)
        fresh = msgspec.structs.replace(asked, resume_tokens=begun)
        await check_everywhere(pair, fresh)


async def test_each_of_several_answers_is_that_of_its_own_seed(pair: Pair) -> None:
    """With `n`, an answer goes on alone: its tokens and the ids of its calls are those of `choice_seed`."""
    cases: list[dict[str, Any]] = [
        {"logprobs": 1},
        {"prompt": FORCED[0], "max_tokens": 36, "ignore_eos": False},
    ]
    for fields in cases:
        several = ask(sampling=SAMPLED, n=3, **fields)
        found = await answer(pair.one, several)
        for index, choice in enumerate(found.choices):
            sampling = msgspec.structs.replace(SAMPLED, seed=choice_seed(SAMPLED.seed, index))
            alone = msgspec.structs.replace(several, n=1, sampling=sampling)
            whole = await check_everywhere(pair, alone)
            compare(choice, whole.choices[0], f"choice {index}")
            assert whole.reasons[0] == found.reasons[index]
        assert len({choice.ids for choice in found.choices}) > 1
        ids = [call_id for choice in found.choices for _, call_id, _, _ in calls(choice.pieces)]
        assert len(set(ids)) == len(ids), "the same call in two answers has two ids"
