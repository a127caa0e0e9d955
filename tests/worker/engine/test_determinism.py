"""With its seed, a request has the same tokens whatever is beside it, whenever it joins, and from where it goes on.

Random requests are answered alone first; then together, joining and leaving at random moments, with too little memory,
in other chunks, after prompts that begin alike, and from every place where a delta ended.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
import torch

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.messages import GenerateRequest, Sampling, TextPrompt, TokenLogprob, TokenPrompt
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.engine.scheduler import SchedulerLimits
from tests.depth import scaled
from tests.worker.answers import Answer, Choice, Models, answer, joined, serve

NAMES = (
    *("llama", "gemma3", "mixtral"),
    *(pytest.param(name, marks=pytest.mark.deep) for name in ("qwen3", "gpt2")),
)
ROUNDS = scaled(ci=1, deep=2)
MAX_PLACES = 12
LOGPROB_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.5}
SAME_ORDER = 1e-2
"""Where logprobs are surer than this, the likeliest tokens come in the same order."""
MAX_PARTED = 0.01
"""Answers in bfloat16 with another token, by tokens compared: random weights find many as likely as one another."""
SCARCE_TOKENS = 320
"""Just enough for the longest of the requests alone."""

SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "tags": {"type": "array", '
    '"items": {"enum": ["a", "b"]}, "maxItems": 3}}, "required": ["name", "tags"], "additionalProperties": false}'
)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("checkpoints"))


def random_sampling(draw: random.Random, vocabulary_size: int) -> Sampling:
    """Greedy a third of the time; everything else is there or not, each for itself."""

    def sometimes(value: Any, otherwise: Any) -> Any:
        return value if draw.random() < 0.3 else otherwise

    return Sampling(
        seed=draw.getrandbits(63),
        temperature=draw.choice([0, 0.3, 0.7, 1, 1.5, 3]) if draw.random() < 0.67 else 0,
        top_k=sometimes(draw.randrange(1, 60), 0),
        top_p=sometimes(draw.uniform(0.3, 1), 1.0),
        min_p=sometimes(draw.uniform(0, 0.3), 0.0),
        repetition_penalty=sometimes(draw.uniform(0.8, 1.6), 1.0),
        presence_penalty=sometimes(draw.uniform(-1, 2), 0.0),
        frequency_penalty=sometimes(draw.uniform(-1, 2), 0.0),
        logit_bias=sometimes({draw.randrange(vocabulary_size): draw.uniform(-8, 8) for _ in range(4)}, {}),
    )


def random_request(draw: random.Random, loaded: LoadedModel, stems: Sequence[Sequence[int]]) -> GenerateRequest:
    """Prompts of 1 to 200 tokens, half of which begin with one of the stems."""
    size = loaded.vocabulary_size
    ids = [draw.randrange(size) for _ in range(draw.choice([1, 2, 9, 31, 33, 64, 80, 199]))]
    if draw.random() < 0.5:
        stem = draw.choice(stems)
        ids = [*stem[: draw.randrange(1, len(stem) + 1)], *ids][:200]
    is_text = draw.random() < 0.2
    is_long = draw.random() < 0.1
    form = None if is_long else draw.choice([None, None, JsonFormat(), JsonSchemaFormat(SCHEMA)])
    stops = 0 if is_long else draw.choice([0, 0, 1, 2])
    return GenerateRequest(
        "r",
        "m",
        TextPrompt(loaded.tokenizer.decode(ids[:60]) + "x") if is_text else TokenPrompt(tuple(ids)),
        random_sampling(draw, size),
        max_tokens=draw.randrange(60, 120) if is_long else draw.randrange(1, 24),
        stop=tuple(draw.choice([" the", "qu", "ov", "}", "zy", "is", "\n"]) for _ in range(stops)),
        stop_token_ids=tuple(draw.randrange(size) for _ in range(stops)),
        ignore_eos=is_long,
        min_tokens=draw.choice([0, 0, 5]),
        n=draw.choice([1, 1, 1, 1, 2, 3]),
        logprobs=draw.choice([None, None, 0, 4]),
        response_format=form,
    )


def random_requests(draw: random.Random, loaded: LoadedModel) -> list[GenerateRequest]:
    stems = [[draw.randrange(loaded.vocabulary_size) for _ in range(length)] for length in (70, 130)]
    return [random_request(draw, loaded, stems) for _ in range(draw.randrange(2, 7))] + [
        hungry_request(draw, loaded) for _ in range(2)
    ]


def hungry_request(draw: random.Random, loaded: LoadedModel) -> GenerateRequest:
    """One that outgrows the memory it is admitted with."""
    size = loaded.vocabulary_size
    prompt = TokenPrompt(tuple(draw.randrange(size) for _ in range(draw.randrange(50, 65))))
    return GenerateRequest("r", "m", prompt, random_sampling(draw, size), max_tokens=120, ignore_eos=True)


@dataclass
class Tally:
    """How much was compared, and what the engine had to do for it."""

    tokens: int = 0
    places: int = 0
    preemptions: int = 0
    cached_tokens: int = 0
    parted: int = 0
    """Answers with other tokens than they had alone."""


@asynccontextmanager
async def served(tally: Tally, loaded: LoadedModel, **options: Any) -> AsyncIterator[TransformersBackend]:
    backend = serve(loaded, **options)
    try:
        yield backend
    finally:
        await backend.close()
        tally.preemptions += backend.counts.preemptions
        tally.cached_tokens += backend.counts.cached_tokens


class Expected:
    """The answers that requests had alone, and how others compare with them. In bfloat16 the last of three digits
    follows from what is computed together, and a token now and then from that: these answers are counted."""

    def __init__(self, loaded: LoadedModel, requests: Sequence[GenerateRequest], tally: Tally) -> None:
        self._loaded = loaded
        self.requests = requests
        self.answers: list[Answer] = []
        self._tally = tally

    def compare(self, index: int, found: Answer, how: str) -> None:
        expected = self.answers[index]
        if self._loaded.dtype == "bfloat16" and _ids(expected) != _ids(found):
            self._tally.parted += 1
            return
        for one, other in zip(expected.choices, found.choices, strict=True):
            self._compare_choice(index, one, other, how)
        assert found.reasons == expected.reasons, how
        assert found.usage.prompt_tokens == expected.usage.prompt_tokens, how
        assert found.usage.completion_tokens == expected.usage.completion_tokens, how

    def compare_start(self, index: int, found: Answer, how: str) -> None:
        """Of an answer that was cut short."""
        if self._loaded.dtype == "bfloat16":
            return
        for one, other in zip(self.answers[index].choices, found.choices, strict=True):
            assert other.ids == one.ids[: len(other.ids)], self._difference(index, one, other, how)
            assert one.text.startswith(other.text), how
            self._tally.tokens += len(other.ids)

    def _compare_choice(self, index: int, one: Choice, other: Choice, how: str) -> None:
        assert other.ids == one.ids, self._difference(index, one, other, how)
        assert other.text == one.text, how
        compare_logprobs(one.logprobs, other.logprobs, LOGPROB_TOLERANCES[self._loaded.dtype])
        self._tally.tokens += len(one.ids)

    def _difference(self, index: int, one: Choice, other: Choice, how: str) -> str:
        """Where the ids part, and how far apart the model's own logits of the two are."""
        request = self.requests[index]
        at = next(
            (at for at, pair in enumerate(zip(one.ids, other.ids, strict=False)) if pair[0] != pair[1]),
            min(len(one.ids), len(other.ids)),
        )
        words = f"{how}: request {index} differs at token {at}: {request}"
        if at >= min(len(one.ids), len(other.ids)) or not isinstance(request.prompt, TokenPrompt):
            return f"{words}; {one.ids[at : at + 1]} against {other.ids[at : at + 1]}"
        with torch.inference_mode():
            ids = torch.tensor([[*request.prompt.token_ids, *one.ids[:at]]])
            logits = self._loaded.model(input_ids=ids, use_cache=False).logits[0, -1]
        gap = float(logits[one.ids[at]] - logits[other.ids[at]])
        return f"{words}; {one.ids[at]} against {other.ids[at]}, logits {gap:.3g} apart"


def _ids(found: Answer) -> list[tuple[int, ...]]:
    return [choice.ids for choice in found.choices]


def compare_logprobs(one: Sequence[TokenLogprob], other: Sequence[TokenLogprob], tolerance: float) -> None:
    assert len(one) == len(other)
    for expected, found in zip(one, other, strict=True):
        pairs = [(expected.logprob, found.logprob)]
        pairs += [(first.logprob, second.logprob) for first, second in zip(expected.top, found.top, strict=True)]
        assert found.token_id == expected.token_id
        if tolerance < SAME_ORDER:
            assert [likely.token_id for likely in found.top] == [likely.token_id for likely in expected.top]
        for first, second in pairs:
            assert first is not None and second is not None
            assert abs(first - second) < tolerance


async def alone(loaded: LoadedModel, expected: Expected, tally: Tally) -> None:
    """One after the other, and nothing reused: what was kept is given back with each backend."""
    for request in expected.requests:
        async with served(tally, loaded) as backend:
            expected.answers.append(await answer(backend, request))


async def together(backend: TransformersBackend, expected: Expected, how: str) -> None:
    found = await asyncio.gather(*(answer(backend, request) for request in expected.requests))
    for index, one in enumerate(found):
        expected.compare(index, one, how)


class Joiner:
    """Starts each request when another one has had a random number of its deltas; some are cut short, and asked for
    once more by somebody else."""

    def __init__(self, backend: TransformersBackend, expected: Expected, draw: random.Random) -> None:
        self._backend = backend
        self._expected = expected
        count = len(expected.requests)
        self._progress = [0] * count
        self._is_over = [False] * count
        self._news = asyncio.Condition()
        self._waits = [(draw.randrange(index), draw.randrange(12)) if index else (0, 0) for index in range(count)]
        self._cuts = [draw.choice([None, draw.randrange(1, 10)]) for _ in range(count)]

    async def run(self) -> None:
        await asyncio.gather(*(self._join(index) for index in range(len(self._expected.requests))))

    async def _join(self, index: int) -> None:
        other, deltas = self._waits[index]
        async with self._news:
            await self._news.wait_for(lambda: not index or self._is_over[other] or self._progress[other] >= deltas)
        cut = self._cuts[index]
        if cut is not None:
            events = await self._read(index, cut)
            self._expected.compare_start(index, joined(events, self._expected.requests[index].n), "cut short")
        events = await self._read(index, None)
        self._expected.compare(index, joined(events, self._expected.requests[index].n), "joining at random")
        await self._tell(index, is_over=True)

    async def _read(self, index: int, cut: int | None) -> list[BackendEvent]:
        events: list[BackendEvent] = []
        async with aclosing(self._backend.generate(self._expected.requests[index])) as source:
            async for event in source:
                events.append(event)
                if cut is not None and len(events) > cut:
                    break
                await self._tell(index, is_over=False)
        return events

    async def _tell(self, index: int, is_over: bool) -> None:
        async with self._news:
            self._progress[index] += 1
            self._is_over[index] = is_over
            self._news.notify_all()


async def resumed(backend: TransformersBackend, expected: Expected, tally: Tally, draw: random.Random) -> None:
    """From every place where a delta with ids ended, all at the same time; of long answers from some of them."""

    async def go_on(index: int, ids: int, chars: int) -> None:
        request, whole = expected.requests[index], expected.answers[index]
        one = whole.choices[0]
        rest = await answer(backend, msgspec.structs.replace(request, resume_tokens=one.ids[:ids]))
        other = rest.choices[0]
        found = replace(
            other,
            ids=one.ids[:ids] + other.ids,
            text=one.text[:chars] + other.text,
            logprobs=one.logprobs[:ids] + other.logprobs,
        )
        expected.compare(index, replace(rest, choices=(found,)), f"resumed after {ids} tokens")
        tally.places += 1

    places = [
        (index, ids, chars)
        for index, (request, whole) in enumerate(zip(expected.requests, expected.answers, strict=True))
        for ids, chars, _ in some(draw, whole.choices[0].clean)
        if request.n == 1
    ]
    await asyncio.gather(*(go_on(*place) for place in places))


def some(draw: random.Random, places: Sequence[tuple[int, int, int]]) -> Sequence[tuple[int, int, int]]:
    return places if len(places) <= MAX_PLACES else draw.sample(places, MAX_PLACES)


@pytest.mark.parametrize("name", NAMES)
async def test_tokens_depend_on_nothing_but_the_request(models: Models, name: str) -> None:
    await check(models(name), name)


@pytest.mark.deep
@pytest.mark.parametrize("name", ["llama", "gemma3"])
async def test_in_bfloat16_too_but_for_rounding(models: Models, name: str) -> None:
    await check(models(name, "bfloat16"), name)


async def check(loaded: LoadedModel, name: str) -> None:
    tally = Tally()
    for round_number in range(ROUNDS):
        draw = random.Random(f"{name} {round_number}")
        expected = Expected(loaded, random_requests(draw, loaded), tally)
        await alone(loaded, expected, tally)
        async with served(tally, loaded) as backend:
            await together(backend, expected, "together")
            await together(backend, expected, "once more, with prefixes kept")
            await Joiner(backend, expected, draw).run()
        limits = SchedulerLimits(max_running=5, chunk_alone=draw.randrange(2, 40), chunk_beside=draw.randrange(2, 20))
        async with served(tally, loaded, limits=limits) as backend:
            await Joiner(backend, expected, draw).run()
        async with served(tally, loaded, kv_tokens=SCARCE_TOKENS) as backend:
            await together(backend, expected, "with little memory")
        async with served(tally, loaded, limits=limits) as backend:
            await resumed(backend, expected, tally, draw)
    print(f"\n{name}: {tally}")
    assert tally.parted <= tally.tokens * MAX_PARTED
    assert tally.cached_tokens > 0
    assert tally.preemptions > 0
