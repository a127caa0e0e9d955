"""Whoever scores an honest answer finds nothing to say against it, whatever was asked; and every lie has a margin."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from p2pnet.answer_forms import JsonSchemaFormat, RegexFormat
from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest, ModelNotFound, RequestError
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
    choice_seed,
)
from p2pnet.score_messages import Scored, ScoreRequest
from p2pnet.worker.backends.engine_backend import EngineBackend
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.replay import ROWS_AT_ONCE
from p2pnet.worker.engine.runner import Runner, SequentialRunner
from p2pnet.worker.engine.sampler import SAMPLER
from p2pnet.worker.engine.scheduler import SchedulerLimits
from tests.depth import scaled
from tests.stories import DIGEST, settle_threads
from tests.worker.answers import Answer, Models, answer, ask, serve
from tests.worker.engine.test_resume_anywhere import SCHEMA, TIME, TOOL_TEMPLATE, WEATHER

GREEDY = Sampling(temperature=0)
AUDITOR_CHUNK = 48
HOT = Sampling(seed=3, temperature=1.5)
MANY_TURNS = 100_000
TURNS_TO_THE_ENGINE = 200
"""Through other threads: a request is tokenized in one, and is then with the engine in some ten."""


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("checkpoints"))


@dataclass(frozen=True)
class Site:
    """A worker, and an auditor that computes in other batches and chunks."""

    loaded: LoadedModel
    worker: TransformersBackend
    auditor: TransformersBackend

    def asked(self, request: GenerateRequest, found: Answer, choice: int = 0) -> ScoreRequest:
        """The request to score an answer, as a gateway writes it."""
        assert found.finished is not None
        sampling = msgspec.structs.replace(request.sampling, seed=choice_seed(request.sampling.seed, choice))
        (card,) = self.worker.models
        request = msgspec.structs.replace(request, n=1, sampling=sampling, digest=card.digest, sampler=SAMPLER)
        stop = found.finished.stop if choice == 0 else None
        return ScoreRequest(request, found.choices[choice].ids, found.reasons[choice], stop)  # type: ignore[arg-type]

    async def honest(self, request: GenerateRequest) -> ScoreRequest:
        return self.asked(request, await answer(self.worker, request))

    async def score(self, asked: ScoreRequest) -> tuple[list[float], float | None]:
        return await scored(self.auditor, asked)


async def scored(backend: EngineBackend, asked: ScoreRequest) -> tuple[list[float], float | None]:
    """The margins, and that of the end."""
    events = [event async for event in backend.score(asked)]
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
    margins = [event for event in events if isinstance(event, Scored)]
    assert len(margins) == len(events) - 2
    assert events[0].digest == asked.request.digest and events[0].sampler == asked.request.sampler
    values = [value for event in margins for value in event.values]
    assert len(values) == len(asked.token_ids)
    ends = [event.end for event in margins]
    assert all(end is None for end in ends[:-1])
    return values, ends[-1]


@pytest.fixture(params=scaled(ci=("tiny", "gemma3"), deep=("tiny", "gemma3", "llama", "qwen2", "mixtral")))
async def site(models: Models, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    loaded = models(request.param)
    loaded.tokenizer.chat_template = TOOL_TEMPLATE
    worker, auditor = serve(loaded), serve(loaded, SchedulerLimits(chunk_alone=AUDITOR_CHUNK))
    yield Site(loaded, worker, auditor)
    await worker.close()
    await auditor.close()


def hello(**fields: Any) -> ChatPrompt:
    return ChatPrompt((Message("user", "Hello"),), **fields)


REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": GREEDY},
    "sampled": {"sampling": HOT},
    "a long answer": {"sampling": HOT, "max_tokens": 110},
    "one token": {"sampling": HOT, "max_tokens": 1},
    "penalties": {
        "sampling": Sampling(seed=1, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.25),
    },
    "a bias": {"sampling": Sampling(seed=2, logit_bias={40: 3.0, 41: -100.0})},
    "top_k": {"sampling": Sampling(seed=4, top_k=5)},
    "top_p": {"sampling": Sampling(seed=5, top_p=0.7)},
    "min_p": {"sampling": Sampling(seed=6, min_p=0.1)},
    "all of them": {"sampling": Sampling(seed=7, temperature=2, top_k=50, top_p=0.9, min_p=0.01)},
    "what is left out": {"sampling": HOT, "logprobs": 3, "echo": True},
    "no end": {"sampling": HOT, "ignore_eos": True},
    "min_tokens": {"sampling": Sampling(seed=8, temperature=5), "min_tokens": 20, "max_tokens": 60},
    "an end token": {"sampling": Sampling(seed=9, logit_bias={60: 6.0}), "stop_token_ids": (60,)},
    "a schema": {"sampling": HOT, "response_format": JsonSchemaFormat(SCHEMA)},
    "an expression": {"sampling": HOT, "response_format": RegexFormat("[a-z]{3,9} [0-9]+"), "max_tokens": 12},
    "a chat": {"prompt": hello(), "sampling": HOT},
    "a call": {"prompt": hello(tools=(WEATHER, TIME), tool_choice="required"), "sampling": HOT, "max_tokens": 80},
    "a call and a stop string": {
        "prompt": hello(tools=(TIME,), tool_choice="required"),
        "sampling": HOT,
        "max_tokens": 80,
        "stop": ("</tool_call>!", "}!"),
    },
    "tools": {"prompt": hello(tools=(WEATHER, TIME)), "sampling": HOT},
    "after tokens": {"sampling": HOT, "resume_tokens": (40, 50, 60)},
    "after a text": {"sampling": HOT, "resume_text": " the dog"},
    "as much as there is room for": {"sampling": HOT, "max_tokens": 60, "clamp_max_tokens": True},
}


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
async def test_an_honest_answer_has_no_margin_and_so_has_its_end(site: Site, fields: dict[str, Any]) -> None:
    request = ask(**{"prompt": "The quick brown", "max_tokens": 40, **fields})
    asked = await site.honest(request)
    margins, end = await site.score(asked)
    assert margins == [0.0] * len(asked.token_ids)
    assert end == 0.0
    if asked.token_ids:
        cut = msgspec.structs.replace(asked, reason=None, stop=None)
        assert await site.score(cut) == ([0.0] * len(asked.token_ids), None)


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
async def test_whoever_goes_on_with_an_answer_can_score_what_came_before(site: Site, fields: dict[str, Any]) -> None:
    request = ask(**{"prompt": "The quick brown", "max_tokens": 40, **fields, "logprobs": None, "echo": False})
    whole = await answer(site.worker, request)
    if request.resume_text or not whole.choices[0].ids:
        return
    for count in {len(whole.choices[0].ids) // 2, len(whole.choices[0].ids)} - {0}:
        before = (*request.resume_tokens, *whole.choices[0].ids[:count])
        resumed = msgspec.structs.replace(request, resume_tokens=before, score_resume=True)
        events = [event async for event in site.auditor.generate(resumed)]
        margins = [value for event in events if isinstance(event, Scored) for value in event.values]
        own = len(request.resume_tokens)  # which no worker gave
        was_complete = len(events) == 2
        assert len(margins) == (0 if was_complete else len(before))
        assert sum(margins[own:]) == 0.0
        deltas = [event for event in events if isinstance(event, TextDelta)]
        assert sum((delta.token_ids for delta in deltas), ()) == whole.choices[0].ids[count:]
        assert all(isinstance(event, Scored) for event in events[1 : len(events) - len(deltas) - 1]), "they come first"


async def test_a_wrong_token_that_an_answer_goes_on_after_has_a_margin(site: Site) -> None:
    request = ask(sampling=HOT, ignore_eos=True, max_tokens=40)
    ids = (await answer(site.worker, request)).choices[0].ids[:20]
    wrong = (*ids[:10], (ids[10] + 1) % site.loaded.vocabulary_size, *ids[11:])
    resumed = msgspec.structs.replace(request, resume_tokens=wrong, score_resume=True)
    events = [event async for event in site.auditor.generate(resumed)]
    margins = [value for event in events if isinstance(event, Scored) for value in event.values]
    assert len(margins) == 20 and margins[:10] == [0.0] * 10 and margins[10] > 0
    with pytest.raises(InvalidRequest):
        _ = [event async for event in site.auditor.generate(msgspec.structs.replace(request, score_resume=True))]


async def test_each_answer_of_several_is_scored_with_its_own_seed(site: Site) -> None:
    request = ask(sampling=HOT, max_tokens=20, n=3)
    found = await answer(site.worker, request)
    for choice in range(3):
        assert sum((await site.score(site.asked(request, found, choice)))[0]) == 0.0
    wrong = msgspec.structs.replace(site.asked(request, found, 1), token_ids=found.choices[0].ids)
    assert sum((await site.score(wrong))[0]) > 2


def stops_in(text: str) -> list[tuple[str, ...]]:
    """Stop strings that end this text: of one character, of several, and where another one nearly fits before."""
    middle = len(text) // 2
    return [(text[middle],), (text[middle : middle + 3],), (text[3:9] + "~", text[middle : middle + 6])]


async def test_a_stop_string_is_looked_for_beyond_the_tokens_that_were_given(site: Site) -> None:
    request = ask(sampling=GREEDY, max_tokens=40, ignore_eos=True)
    for stops in stops_in((await answer(site.worker, request)).choices[0].text):
        asked = await site.honest(msgspec.structs.replace(request, stop=stops))
        assert asked.reason == "stop" and asked.stop in stops
        margins, end = await site.score(asked)
        assert (sum(margins), end) == (0.0, 0.0)
        if asked.token_ids:
            cut = msgspec.structs.replace(asked, token_ids=asked.token_ids[:-1])
            assert (await site.score(cut))[1] > 0.01, "what was cut off is text"  # type: ignore[operator]
        for lie in ({"stop": None}, {"reason": "length", "stop": None}, {"stop": "another"}):
            assert (await site.score(msgspec.structs.replace(asked, **lie)))[1] > 0.01  # type: ignore[operator]


async def test_a_token_that_was_changed_has_a_margin_and_so_have_those_of_another_seed(site: Site) -> None:
    asked = await site.honest(ask(sampling=HOT, max_tokens=30, ignore_eos=True))
    for place in (0, 7, 29):
        ids = list(asked.token_ids)
        ids[place] = (ids[place] + 1) % site.loaded.vocabulary_size
        margins, _ = await site.score(msgspec.structs.replace(asked, token_ids=tuple(ids)))
        assert margins[:place] == [0.0] * place
        assert margins[place] > 0.0
    sampling = msgspec.structs.replace(HOT, seed=4)
    other = msgspec.structs.replace(asked, request=msgspec.structs.replace(asked.request, sampling=sampling))
    assert sum((await site.score(other))[0]) > 1


def changed(asked: ScoreRequest, **fields: Any) -> ScoreRequest:
    request = msgspec.structs.replace(asked.request, **fields.pop("request", {}))
    return msgspec.structs.replace(asked, request=request, **fields)


async def test_an_answer_that_was_cut_short_or_went_on_ends_wrong(site: Site) -> None:
    asked = await site.honest(ask(sampling=HOT, max_tokens=30, ignore_eos=True))
    assert asked.reason == "length"
    for lie in (
        changed(asked, token_ids=asked.token_ids[:20]),
        changed(asked, token_ids=asked.token_ids[:20], reason="content_filter"),
        changed(asked, reason="stop"),
        changed(asked, token_ids=asked.token_ids[:20], reason="stop"),
        changed(asked, token_ids=asked.token_ids[:20], reason="tool_calls"),
    ):
        margins, end = await site.score(lie)
        assert (sum(margins), end) == (0.0, 0.5)


async def test_nothing_follows_an_end_token_nor_a_form_that_is_complete_nor_a_stop_string(site: Site) -> None:
    ended = await site.honest(ask(sampling=Sampling(seed=9, logit_bias={60: 6.0}), stop_token_ids=(60,), max_tokens=90))
    assert ended.reason == "stop" and len(ended.token_ids) < 80
    went_on = (*ended.token_ids, 60, 40, 41)
    margins, end = await site.score(changed(ended, token_ids=went_on))
    assert margins == [0.0] * len(ended.token_ids) + [0.5] * 3 and end == 0.5

    form = await site.honest(ask(sampling=HOT, max_tokens=60, response_format=RegexFormat("[ab]{4}")))
    margins, end = await site.score(changed(form, token_ids=(*form.token_ids, 40)))
    assert margins == [0.0] * len(form.token_ids) + [0.5] and end == 0.5
    digit = site.loaded.tokenizer("7", add_special_tokens=False)["input_ids"][-1]
    margins, _ = await site.score(changed(form, token_ids=(*form.token_ids[:1], digit, 70, 70)))
    assert margins[1:] == [0.5] * 3, "what the form does not allow, and what comes after it"

    plain = await site.honest(ask(sampling=GREEDY, max_tokens=30, ignore_eos=True))
    text = (await answer(site.worker, ask(sampling=GREEDY, max_tokens=10, ignore_eos=True))).choices[0].text
    margins, end = await site.score(changed(plain, request={"stop": (text[-3:],)}))
    assert margins[-15:] == [0.5] * 15 and end == 0.5


async def test_an_end_that_only_another_context_explains_is_not_held_against_it(site: Site) -> None:
    asked = await site.honest(ask(sampling=HOT, max_tokens=30, ignore_eos=True))
    for fields in ({"max_tokens": None}, {"max_tokens": 400, "clamp_max_tokens": True}):
        assert (await site.score(changed(asked, request=fields)))[1] == 0.0


async def test_an_answer_that_fills_the_context_can_be_scored(models: Models) -> None:
    backend = serve(models("llama"))
    site = Site(models("llama"), backend, backend)
    asked = await site.honest(ask(TokenPrompt((40,) * 480), sampling=HOT, ignore_eos=True))
    assert asked.reason == "length" and len(asked.token_ids) == 32
    assert await site.score(asked) == ([0.0] * 32, 0.0)
    await backend.close()


async def test_many_rows_are_wanted_in_steps_and_only_those_of_the_answer(site: Site) -> None:
    prompt = TokenPrompt(tuple(range(40, 140)))
    asked = await site.honest(ask(prompt, sampling=HOT, max_tokens=200, ignore_eos=True))
    with recorded(site.loaded) as passes:
        margins, end = await site.score(asked)
    assert (sum(margins), end) == (0.0, 0.0)
    steps = -(-300 // AUDITOR_CHUNK)
    assert 201 <= sum(passes.rows) <= 201 + steps, "a step that wants none computes one"
    assert max(passes.rows) <= min(AUDITOR_CHUNK, ROWS_AT_ONCE)


class Passes:
    """Records how many tokens each forward pass computes, and for how many of them the logits."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.rows: list[int] = []

    def note(self, _model: object, _arguments: object, options: dict[str, Any]) -> None:
        self.tokens.append(options["input_ids"].shape[1])
        self.rows.append(len(options["logits_to_keep"]))


class HeldPass:
    """A model's pass that does not go on before it is let."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()

    def wait(self, *_: object) -> None:
        self.has_begun.set()
        self.may_go_on.wait()


@contextmanager
def held(loaded: LoadedModel) -> Iterator[HeldPass]:
    """The next pass of the model goes on when this is left."""
    first = HeldPass()
    hook = loaded.model.register_forward_pre_hook(first.wait)
    try:
        yield first
    finally:
        hook.remove()
        first.may_go_on.set()


@contextmanager
def recorded(loaded: LoadedModel) -> Iterator[Passes]:
    passes = Passes()
    hook = loaded.model.register_forward_pre_hook(passes.note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


REFUSED: list[tuple[str, dict[str, Any], type[RequestError], str]] = [
    ("a token that there is not", {"token_ids": (1 << 30,)}, InvalidRequest, "token_ids"),
    ("more than may be generated", {"token_ids": (40,) * 41}, InvalidRequest, "token_ids"),
    ("more with what was resumed", {"request": {"resume_tokens": (40,) * 20}}, InvalidRequest, "token_ids"),
    ("nothing", {"token_ids": (), "reason": None}, InvalidRequest, "token_ids"),
    ("no digest", {"request": {"digest": None}}, InvalidRequest, "digest"),
    ("another digest", {"request": {"digest": DIGEST}}, ModelNotFound, "model"),
    ("no sampler", {"request": {"sampler": None}}, InvalidRequest, "sampler"),
    ("another sampler", {"request": {"sampler": "other-1"}}, ModelNotFound, "model"),
    ("several answers", {"request": {"n": 2}}, InvalidRequest, "n"),
    ("another model", {"request": {"model": "other"}}, ModelNotFound, "model"),
    ("a bias of no token", {"request": {"sampling": Sampling(logit_bias={1 << 30: 1})}}, InvalidRequest, "logit_bias"),
    ("two kinds of before", {"request": {"resume_text": "a", "resume_tokens": (1,)}}, InvalidRequest, "resume_text"),
    ("a prompt that is too long", {"request": {"prompt": TokenPrompt((40,) * 5000)}}, ContextOverflow, "prompt"),
    (
        "too much with the answer",
        {"request": {"max_tokens": None, "prompt": TokenPrompt((40,) * 200)}, "token_ids": (40,) * 4000},
        ContextOverflow,
        "prompt",
    ),
    ("what the model cannot do", {"request": {"prompt": TextPrompt("a", "b")}}, FeatureMissing, "suffix"),
]


@pytest.mark.parametrize(("fields", "kind", "param"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_what_cannot_be_scored_is_refused_before_anything_is_computed(
    models: Models, fields: dict[str, Any], kind: type[RequestError], param: str
) -> None:
    loaded = models("tiny")
    backend = serve(loaded)
    request = ask(max_tokens=40, digest=loaded.digest, sampler=SAMPLER)
    asked = changed(ScoreRequest(request, (40,) * 30, "stop"), **fields)
    with pytest.raises(kind) as caught:
        _ = [event async for event in backend.score(asked)]
    assert caught.value.param == param
    assert backend.load.kv_free_tokens == backend.load.kv_total_tokens
    await backend.close()


async def test_scores_wait_for_answers_and_give_them_their_memory(models: Models) -> None:
    """Given a score under way in a small memory, when answers come that need all of it, then they are what they are
    without it, and the score is right in the end."""
    loaded = models("llama")
    rich, poor = serve(loaded), serve(loaded, kv_tokens=256)
    site = Site(loaded, rich, poor)
    requests = [ask(f"{index} is", sampling=HOT, ignore_eos=True, max_tokens=80) for index in range(3)]
    expected = [(await answer(rich, request)).choices[0].ids for request in requests]
    asked = await site.honest(ask("Numbers:", sampling=HOT, ignore_eos=True, max_tokens=150))
    with held(loaded) as first_pass:
        scoring = asyncio.ensure_future(site.score(asked))
        await settle_threads(first_pass.has_begun.is_set, MANY_TURNS)
        answering = [asyncio.ensure_future(answer(poor, request)) for request in requests]
        for _ in range(TURNS_TO_THE_ENGINE):
            await asyncio.to_thread(bool)
    found = await asyncio.gather(*answering)
    margins, end = await scoring
    assert [one.choices[0].ids for one in found] == expected
    assert (sum(margins), end) == (0.0, 0.0)
    assert poor.counts.preemptions > 0
    await rich.close()
    await poor.close()


async def test_closing_takes_it_out(models: Models) -> None:
    loaded = models("tiny")
    backend = serve(loaded)
    site = Site(loaded, backend, backend)
    asked = await site.honest(ask(sampling=HOT, ignore_eos=True, max_tokens=300))
    async with aclosing(backend.score(asked)) as events:
        assert isinstance(await anext(events), Accepted)
        assert isinstance(await anext(events), Scored)
    assert sum((await site.score(asked))[0]) == 0.0
    assert backend.load.kv_free_tokens == backend.load.kv_total_tokens
    await backend.close()


async def test_an_answer_under_way_waits_for_a_small_chunk_at_a_time(models: Models) -> None:
    loaded = models("llama")
    backend = serve(loaded)
    site = Site(loaded, backend, backend)
    asked = await site.honest(ask("Numbers:", sampling=HOT, ignore_eos=True, max_tokens=300))
    running = backend.generate(ask(sampling=HOT, ignore_eos=True, max_tokens=100))
    assert isinstance(await anext(running), Accepted) and isinstance(await anext(running), TextDelta)
    with recorded(loaded) as passes:
        scoring = asyncio.ensure_future(site.score(asked))
        tokens = [event async for event in running if isinstance(event, TextDelta)]
        beside = len(passes.tokens)
        margins, end = await scoring
    assert len(tokens) > 60 and (sum(margins), end) == (0.0, 0.0)
    assert max(passes.tokens[: beside - 1]) == 1 + SchedulerLimits().background_beside
    await backend.close()


class OneAtATime(TransformersBackend):
    """Runs a model as those are run that cannot be packed."""

    def _prepare(self, loaded: LoadedModel) -> tuple[Runner, KvStore]:
        return SequentialRunner(loaded.model), KvStore(4096)


async def test_models_that_compute_one_sequence_at_a_time_score_as_others_do(tmp_path: Path) -> None:
    loaded = Models(tmp_path)("qwen2")  # of its own: packing changes a model
    backend = OneAtATime(loaded, "m", lambda: 0)
    site = Site(loaded, backend, backend)
    requests = [ask(f"{index} is", sampling=HOT, ignore_eos=True, max_tokens=100) for index in range(2)]
    for asked in await asyncio.gather(*map(site.honest, requests)):
        margins, end = await site.score(asked)
        assert max(margins) < 1e-4 and end == 0.0, "it rounds otherwise, token by token and all at once"
        other = changed(asked, token_ids=(*asked.token_ids[:50], 41, *asked.token_ids[51:]))
        assert (await site.score(other))[0][50] > 0
    await backend.close()
