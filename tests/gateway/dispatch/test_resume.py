"""The client sees one unbroken answer: whatever breaks behind it, the answer is the undisturbed one, byte for byte.

Requests are answered undisturbed first, and then by workers that break off by a schedule: before the first event,
between any two, right before the end, again and again.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from gateway.dispatch.failure_policy import MAX_FAILURES
from p2pnet.answer_forms import JsonSchemaFormat
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import NoWorker
from p2pnet.features import RESUME_TEXT
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
)
from p2pnet.worker.backends.embeddings import EmbeddingsBackend
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.embedding.encoder import load_encoder
from p2pnet.worker.engine.scheduler import SchedulerLimits
from p2pnet.worker.engine.turns import Turns
from tests.depth import scaled
from tests.encoders import build_encoder
from tests.gateway.breaking import AT_THE_END, Break, How, WithoutIds
from tests.gateway.broken_swarm import CALLER, Swarm, swarm
from tests.gateway.random_requests import MAX_KILLS, SCHEMA, TEMPLATE, Requests, with_tools
from tests.gateway.same_answer import compare, has_same_tokens
from tests.stories import settle_threads
from tests.worker.answers import Models, answer, joined, serve

NAMES = ("tiny", "llama", "qwen2")
ROUNDS = scaled(ci=1, deep=2)
BROKEN = 16
"""Broken answers in each of them."""

AT_THE_SAME_TIME = 8
MANY_TURNS = 200_000
"""Of the event loop, each through another thread, while an engine computes its last step in its own."""

DTYPES = ("float32", "bfloat16")
MAX_PARTED = 0.1
"""Of the answers in bfloat16. Its logits have three digits, of which what is computed together changes the last: these
models have many tokens that are as likely as one another up to that."""

LIMITS = (SchedulerLimits(), SchedulerLimits(chunk_alone=7, chunk_beside=3), SchedulerLimits(chunk_alone=33))
"""Each worker reads prompts in its own pieces."""

OTHER_DIGEST = "sha256:" + "cd" * 32


@dataclass(frozen=True)
class Trio:
    """Three engines with the same weights, which each have their own memory and their own thread."""

    loaded: LoadedModel
    backends: tuple[TransformersBackend, ...]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("checkpoints"))


@asynccontextmanager
async def three_of(models: Models, name: str, dtype: str = "float32") -> AsyncIterator[Trio]:
    loaded = models(name, dtype)
    loaded.tokenizer.chat_template = TEMPLATE
    backends = tuple(serve(loaded, limits) for limits in LIMITS)
    try:
        yield Trio(loaded, backends)
    finally:
        for backend in backends:
            await backend.close()


@pytest.fixture(params=[(name, dtype) for name in NAMES for dtype in DTYPES], ids="-".join)
async def trio(models: Models, request: pytest.FixtureRequest) -> AsyncIterator[Trio]:
    async with three_of(models, *request.param) as given:
        yield given


@pytest.fixture
async def llamas(models: Models) -> AsyncIterator[Trio]:
    async with three_of(models, "llama") as given:
        yield given


@pytest.fixture
async def tinies(models: Models) -> AsyncIterator[Trio]:
    async with three_of(models, "tiny") as given:
        yield given


def ask(request_id: str, **fields: Any) -> GenerateRequest:
    asked: dict[str, Any] = {"prompt": TextPrompt("The quick brown"), "sampling": Sampling(seed=7), "max_tokens": 14}
    return GenerateRequest(request_id, "m", **{**asked, "ignore_eos": True, **fields})


# ---- at random


async def broken_round(given: Swarm, requests: Requests, draw: random.Random, label: str, dtype: str) -> int:
    """Some requests, at the same time unless they are in bfloat16: there what is computed beside an answer changes it,
    and how busy this machine is decides what that is. Returns how many answers in it have other tokens than undisturbed
    ones."""

    async def one(index: int) -> int:
        request = msgspec.structs.replace(requests.one(), request_id=f"plain {label} {index}")
        if draw.random() < 0.3:
            request = requests.stopping(request, joined(await given.run(request), request.n))
        expected = await given.run(request)
        broken = msgspec.structs.replace(request, request_id=f"broken {label} {index}")
        given.schedule.plan(broken.request_id, requests.breaks(index < MAX_KILLS))
        found = await given.run(broken)
        if dtype == "bfloat16" and not has_same_tokens(broken, expected, found):
            return 1
        compare(broken, expected, found, dtype)
        return 0

    together = AT_THE_SAME_TIME if dtype == "float32" else 1
    parted = 0
    for first in range(0, AT_THE_SAME_TIME, together):
        parted += sum(await asyncio.gather(*(one(index) for index in range(first, first + together))))
        await settle_threads(given.is_idle, MANY_TURNS)
    return parted


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_an_answer_is_the_undisturbed_one_whatever_breaks(trio: Trio, seed: int) -> None:
    draw = random.Random(seed)
    async with swarm(*trio.backends, seed=seed) as given:
        requests = Requests(draw, trio.loaded)
        parted = 0
        for number in range(BROKEN // AT_THE_SAME_TIME):
            parted += await broken_round(given, requests, draw, f"{number}", trio.loaded.dtype)
        assert parted <= BROKEN * MAX_PARTED
        assert given.schedule.happened.total() >= BROKEN
        assert sum(backend.resumed for backend in given.backends) >= BROKEN / 2


# ---- one kind after another


KINDS: dict[str, dict[str, Any]] = {
    "to a limit": {},
    "greedy, to a limit, with logprobs": {"sampling": Sampling(temperature=0), "logprobs": 2},
    "to its own end": {"sampling": Sampling(seed=1, logit_bias={2: 8.0}), "min_tokens": 5, "ignore_eos": False},
    "an echo": {"echo": True},
    "an echo with logprobs": {"echo": True, "logprobs": 1},
    "several": {"n": 3, "logprobs": 0},
    "several with echoes": {"n": 3, "echo": True},
    "a schema": {"response_format": JsonSchemaFormat(SCHEMA), "max_tokens": 60, "ignore_eos": False},
    "calls": {"prompt": with_tools(tool_choice="required"), "max_tokens": 60, "ignore_eos": False},
    "several with calls": {"prompt": with_tools(tool_choice="required"), "max_tokens": 30, "n": 3},
    "to the end of the context": {"prompt": TokenPrompt(tuple(range(10, 490))), "max_tokens": None},
}


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
async def test_breaks_after_every_token_and_again_right_before_the_end(llamas: Trio, fields: dict[str, Any]) -> None:
    await break_everywhere(llamas, fields)


async def test_breaks_everywhere_before_a_stop_string_wherever_that_begins(llamas: Trio) -> None:
    text = (await answer(llamas.backends[0], ask("alone", max_tokens=30))).choices[0].text
    for begin in range(len(text) // 2, len(text) // 2 + 5):
        stop = text[begin : begin + 3]
        if stop not in text[: begin + 2]:
            await break_everywhere(llamas, {"stop": (stop, stop + "\x00"), "max_tokens": 30, "logprobs": 0})


async def break_everywhere(llamas: Trio, fields: dict[str, Any]) -> None:
    async with swarm(*llamas.backends) as given:
        expected = await given.run(ask("plain", **fields))
        whole = await answer(llamas.backends[0], ask("alone", **fields))
        echo = len(whole.echoes[0].clean) * len(whole.choices)
        tokens = min(len(choice.clean) for choice in whole.choices)
        ways = cycle(how for how in How if how is not How.FAILED)
        one_token = [Break(how, 2 + echo) for how in islice(ways, tokens)]
        no_token = [Break(how, AT_THE_END) for how in islice(ways, MAX_FAILURES - 1)]
        for name, breaks in (("one token", one_token), ("no token", no_token)):
            given.schedule.plan(name, breaks)
            compare(ask(name, **fields), expected, await given.run(ask(name, **fields)))
        assert given.schedule.happened.total() > len(no_token)
        await settle_threads(given.is_idle, MANY_TURNS)


async def test_workers_that_are_busy_ten_times_before_they_take_it(llamas: Trio) -> None:
    async with swarm(*llamas.backends) as given:
        storm = [Break(How.BUSY, 0)] * 10
        expected = await given.run(ask("plain"))
        given.schedule.plan("stormy", [*storm, Break(How.CLOSED, 4), *storm, Break(How.BUSY, 3), *storm])
        compare(ask("stormy"), expected, await given.run(ask("stormy")))
        assert given.schedule.happened == {How.BUSY: 31, How.CLOSED: 1}


# ---- clients that go away


async def test_a_client_that_goes_while_its_answer_goes_on_elsewhere_leaves_nothing_behind(llamas: Trio) -> None:
    draw = random.Random(5)
    async with swarm(*llamas.backends) as given:
        await given.run(ask("first"))
        await settle_threads(given.is_idle, MANY_TURNS)
        before = asyncio.all_tasks()
        for number in range(40):
            request = ask(f"{number}", n=draw.choice([1, 1, 3]), echo=draw.random() < 0.3, max_tokens=24)
            hows = [how for how in How if how is not How.FAILED]
            given.schedule.plan(f"{number}", [Break(draw.choice(hows), draw.randrange(4)) for _ in range(7)])
            await (leave_after_events if draw.random() < 0.5 else leave_in_between)(given, request, draw)
            await settle_threads(lambda: given.is_idle() and asyncio.all_tasks() <= before, MANY_TURNS)
        assert given.schedule.happened.total() > 40
        compare(ask("last"), await given.run(ask("plain")), await given.run(ask("last")))


async def leave_after_events(given: Swarm, request: GenerateRequest, draw: random.Random) -> None:
    left = draw.randrange(1, 12)
    async with aclosing(given.serving.dispatcher.run(request, CALLER)) as events:
        async for _ in events:
            left -= 1
            if not left:
                break


async def leave_in_between(given: Swarm, request: GenerateRequest, draw: random.Random) -> None:
    """Some turns of the event loop after one of its breaks."""
    enough = given.schedule.happened.total() + draw.randrange(1, 6)
    running = asyncio.create_task(given.run(request))
    await settle_threads(lambda: running.done() or given.schedule.happened.total() >= enough, MANY_TURNS)
    for _ in range(draw.randrange(40)):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])


# ---- from the text


QUESTION = ChatPrompt((Message("user", "What is a worker?"),))


async def test_an_answer_without_ids_goes_on_from_its_text(tinies: Trio) -> None:
    upstream, engine, _ = tinies.backends
    fields: dict[str, Any] = {
        "prompt": QUESTION,
        "ignore_eos": False,
        "sampling": Sampling(temperature=0),
        "max_tokens": None,
    }
    for after in range(2, 20):
        async with swarm(WithoutIds(upstream, OTHER_DIGEST), engine) as given:
            given.prefer("0")
            expected = await given.run(ask("plain", **fields))
            given.schedule.plan("broken", [Break(list(How)[after % len(How)], after)])
            found = await given.run(ask("broken", **fields))
            assert sum(backend.resumed for backend in given.backends) == 1
            one, other = joined(expected), joined(found)
            assert [type(event) for event in found if not isinstance(event, TextDelta)] == [Accepted, Finished]
            assert other.choices[0].text == one.choices[0].text
            assert other.reasons == one.reasons
            assert other.usage.prompt_tokens == one.usage.prompt_tokens
            await settle_threads(given.is_idle, MANY_TURNS)


async def test_a_form_without_ids_is_filled_in_from_its_text(llamas: Trio) -> None:
    upstream, engine, _ = llamas.backends
    fields: dict[str, Any] = {"response_format": JsonSchemaFormat(SCHEMA), "max_tokens": 200, "ignore_eos": False}
    for after in range(2, 16):
        async with swarm(WithoutIds(upstream, OTHER_DIGEST), engine) as given:
            given.prefer("0")
            given.schedule.plan("broken", [Break(How.CLOSED, after)])
            answer = joined(await given.run(ask("broken", **fields)))
            value = json.loads(answer.choices[0].text)
            assert value["a"] in ("x", "y") and len(value["b"]) <= 5
            assert answer.reasons == ("stop",)


CALLS: dict[str, Any] = {"prompt": with_tools(tool_choice="required"), "max_tokens": 60, "ignore_eos": False}
STUCK: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a call was begun": (CALLS, ()),
    "nobody goes on from a text": ({}, (RESUME_TEXT,)),
    "other weights were not asked for": ({"digest": OTHER_DIGEST}, ()),
}


@pytest.mark.parametrize(("fields", "lacks"), STUCK.values(), ids=STUCK)
async def test_what_nobody_can_go_on_with_ends_with_an_error(
    llamas: Trio, fields: dict[str, Any], lacks: tuple[str, ...]
) -> None:
    upstream, engine, _ = llamas.backends
    workers = (WithoutIds(upstream, OTHER_DIGEST), WithoutIds(engine, lacks=lacks) if lacks else engine)
    async with swarm(*workers, wait_s=0) as given:
        given.prefer("0")
        expected = joined(await given.run(ask("plain", **fields))).choices[0]
        given.schedule.plan("broken", [Break(How.CLOSED, 6)])
        events, error = await given.try_to_run(ask("broken", **fields))
        assert isinstance(error, NoWorker)
        assert not any(isinstance(event, Finished) for event in events)
        found = joined(events).choices[0]
        assert expected.text.startswith(found.text)
        assert found.text or found.pieces
        await settle_threads(given.is_idle, MANY_TURNS)


# ---- vectors


@asynccontextmanager
async def embedders(folder: Path) -> AsyncIterator[list[EmbeddingsBackend]]:
    """Three with the same weights, and one with others."""
    encoders = [
        load_encoder(build_encoder(name, folder / name), "cpu", "float32", HashCache(folder))
        for name in ("bert", "roberta")
    ]
    backends = [EmbeddingsBackend(encoders[index], "m", Turns(), lambda: 0, 64) for index in (0, 0, 0, 1)]
    try:
        yield backends
    finally:
        for backend in backends:
            await backend.close()


async def test_vectors_that_are_missing_come_from_another_worker(tmp_path: Path) -> None:
    """Of the same weights: those of others would mean nothing beside them."""
    draw = random.Random(3)
    async with swarm() as given, embedders(tmp_path) as backends:
        *_, stranger = [await given.join_embedder(str(index), backend) for index, backend in enumerate(backends)]
        for number in range(60):
            texts = [f"the fox {number} {index} " * draw.randrange(1, 5) for index in range(draw.randrange(1, 9))]
            plain = EmbedRequest("plain", "m", tuple(map(TextPrompt, texts)), digest=backends[0].models[0].digest)
            expected = await given.run(plain)
            broken = msgspec.structs.replace(plain, request_id=f"{number}", digest=None)
            given.schedule.plan(broken.request_id, breaks_between_vectors(draw))
            given.prefer(draw.choice("012"), task="embed")
            found = await given.run(broken)
            assert isinstance(found[0], Accepted) and isinstance(found[-1], Finished)
            assert (found[0].digest, found[-1].usage) == (plain.digest, expected[-1].usage)
            for one, other in zip(vectors(expected), vectors(found), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
        assert stranger.asked == []
        assert given.schedule.happened.total() > 60
        await settle_threads(given.is_idle, MANY_TURNS)


def breaks_between_vectors(draw: random.Random) -> list[Break]:
    """The first of them not before the first vector."""
    hows = [how for how in How if how is not How.FAILED]
    return [Break(draw.choice(hows), draw.choice([2, 2, 3, 5, AT_THE_END])) for _ in range(draw.randrange(1, 6))]


def vectors(events: Sequence[Any]) -> list[Any]:
    """In the order of the inputs, of which each has one."""
    given = {event.index: np.frombuffer(event.vector, "<f4") for event in events if isinstance(event, Embedding)}
    assert len(given) == len(events) - 2
    return [given[index] for index in range(len(given))]
