"""Many sequences in one engine: each is exactly what the model itself generates, and a long prompt holds up nobody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from p2pnet.messages import Accepted, Sampling, TextDelta, TokenPrompt
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.engine.scheduler import SchedulerLimits
from tests.checkpoints import ARCHITECTURES
from tests.worker.answers import Models, answer, ask, serve

GREEDY = Sampling(temperature=0)
LENGTHS = (1, 2, 7, 18, 40, 65, 120, 200)
GENERATED = 24


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("checkpoints"))


def random_prompt(length: int, vocabulary_size: int) -> TokenPrompt:
    draw = random.Random(length)
    return TokenPrompt(tuple(draw.randrange(vocabulary_size) for _ in range(length)))


def generated_by_transformers(loaded: LoadedModel, prompt: TokenPrompt) -> tuple[int, ...]:
    """What the library's own generate gives, without the end token."""
    ids = torch.tensor([prompt.token_ids])
    found = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=GENERATED)
    generated = [int(token_id) for token_id in found[0, ids.shape[1] :]]
    return tuple(generated[:-1] if generated[-1] in loaded.end_token_ids else generated)


@pytest.mark.parametrize("name", ARCHITECTURES)
async def test_greedy_in_a_batch_of_eight_is_exactly_that_of_generate(models: Models, name: str) -> None:
    loaded = models(name)
    prompts = [random_prompt(length, loaded.vocabulary_size) for length in LENGTHS]
    expected = [generated_by_transformers(loaded, prompt) for prompt in prompts]
    assert len({token_id for ids in expected for token_id in ids}) > 20, "a model that repeats itself would hide errors"
    backend = serve(loaded, SchedulerLimits(chunk_alone=100, chunk_beside=30))
    found = await asyncio.gather(
        *(answer(backend, ask(prompt, sampling=GREEDY, max_tokens=GENERATED)) for prompt in prompts)
    )
    await backend.close()
    assert [one.choices[0].ids for one in found] == expected


class Passes:
    """Records how many tokens each forward pass computes."""

    def __init__(self) -> None:
        self.ids: list[list[int]] = []

    def note(self, _model: object, _arguments: object, options: dict[str, Any]) -> None:
        self.ids.append(options["input_ids"][0].tolist())


@contextmanager
def recorded(loaded: LoadedModel) -> Iterator[Passes]:
    passes = Passes()
    hook = loaded.model.register_forward_pre_hook(passes.note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


CHUNK_BESIDE = 16


async def test_a_long_prompt_stalls_nobody(models: Models) -> None:
    """Given three answers under way, when a prompt of 400 tokens comes, then each pass until its first token has one
    token of each of the three, and one chunk of the prompt at most."""
    loaded = models("llama")
    long = random_prompt(400, loaded.vocabulary_size)
    backend = serve(loaded, SchedulerLimits(chunk_alone=512, chunk_beside=CHUNK_BESIDE))
    running = [
        backend.generate(ask(f"{index} is", sampling=GREEDY, ignore_eos=True, max_tokens=60)) for index in (1, 2, 3)
    ]
    for events in running:
        assert isinstance(await anext(events), Accepted)
        assert isinstance(await anext(events), TextDelta)
    with recorded(loaded) as passes:

        async def rest(index: int) -> list[int]:
            return [
                token_id
                async for event in running[index]
                if isinstance(event, TextDelta)
                for token_id in event.token_ids
            ]

        newcomer = asyncio.ensure_future(answer(backend, ask(long, sampling=GREEDY, max_tokens=1)))
        others = await asyncio.gather(*(rest(index) for index in range(3)))
        await newcomer
    await backend.close()
    assert all(len(ids) > 40 for ids in others)
    sizes = [len(ids) for ids in passes.ids]
    chunks = [size for size in sizes if size > 3]
    assert chunks == [3 + CHUNK_BESIDE] * (400 // CHUNK_BESIDE), "nobody decodes less while the prompt is computed"
    computed = [token_id for ids in passes.ids if len(ids) > 3 for token_id in ids[3:]]
    assert tuple(computed) == long.token_ids
    held = sizes.index(chunks[0])
    assert sizes[held : held + len(chunks)] == chunks, "and nothing comes between"


@pytest.mark.parametrize("chunk", [5, 64])
async def test_no_pass_is_larger_than_its_chunk(models: Models, chunk: int) -> None:
    loaded = models("qwen2")
    backend = serve(loaded, SchedulerLimits(chunk_alone=chunk, chunk_beside=chunk))
    requests = [
        ask(random_prompt(length, loaded.vocabulary_size), sampling=GREEDY, max_tokens=5, ignore_eos=True)
        for length in LENGTHS
    ]
    with recorded(loaded) as passes:
        await asyncio.gather(*(answer(backend, request) for request in requests))
    await backend.close()
    assert max(map(len, passes.ids)) <= chunk + len(requests) - 1


async def test_a_short_prompt_does_not_wait_for_a_long_one(models: Models) -> None:
    loaded = models("llama")
    backend = serve(loaded, SchedulerLimits(chunk_alone=32, chunk_beside=32))
    order: list[int] = []

    async def first_token(length: int) -> None:
        await answer(backend, ask(random_prompt(length, loaded.vocabulary_size), sampling=GREEDY, max_tokens=1))
        order.append(length)

    await asyncio.gather(first_token(400), first_token(20))
    await backend.close()
    assert order == [20, 400]
