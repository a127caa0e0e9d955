"""Several steps under way at the same time: each of other sequences, all answers as they are one step at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

import pytest
import torch

from p2pnet.messages import GenerateRequest, Sampling, TextDelta
from p2pnet.worker.backends.engine_backend import EngineOptions
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, load_model
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.runner import Part, Pipelined, Runner
from tests.checkpoints import build_checkpoint
from tests.stories import NOW_MS, ask

LANES = 3


class Lanes:
    """A runner that computes each step when it is waited for, and keeps how many were under way, and of whom."""

    is_packed = True
    lanes = LANES

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.under_way: list[Sequence[Part]] = []
        self.most = 0
        self.has_to_fail = False
        self.refuses_to_begin = False

    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        return self._runner.forward(parts)

    def begin(self, parts: Sequence[Part]) -> Callable[[], list[torch.Tensor]]:
        if self.refuses_to_begin:
            self.refuses_to_begin = False
            raise RuntimeError("one step does not begin")
        kvs = [part.kv for step in self.under_way for part in step]
        assert not any(part.kv in kvs for part in parts), "a sequence in two steps at the same time"
        assert all(part.kv.capacity for part in parts)
        self.under_way.append(parts)
        self.most = max(self.most, len(self.under_way))

        def result() -> list[torch.Tensor]:
            assert self.under_way.pop(0) is parts, "steps end in the order in which they have begun"
            assert all(part.kv.capacity for part in parts), "memory was taken from a step that is under way"
            if len(parts) > 1 and self.has_to_fail:
                self.has_to_fail = False
                raise RuntimeError("one step fails")
            return self._runner.forward(parts)

        return result


class LanesBackend(TransformersBackend):
    """A whole model that is run so."""

    def _prepare(self, loaded: LoadedModel) -> tuple[Runner, KvStore]:
        runner, store = super()._prepare(loaded)
        self.runner = Lanes(runner)
        assert isinstance(self.runner, Pipelined)
        return self.runner, store


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    return load_model(build_checkpoint("qwen2", folder / "qwen2"), "cpu", "auto", HashCache(folder))


def requests() -> list[GenerateRequest]:
    prompts = ["Once upon a time", "Once upon a time, there", "The quick brown fox " * 20, "a", "b", "c", "d"]
    return [
        ask("model", prompt, max_tokens=3 + 2 * number, ignore_eos=True, sampling=Sampling(seed=number))
        for number, prompt in enumerate(prompts)
    ]


async def ids(backend: TransformersBackend, request: GenerateRequest) -> list[int]:
    async with aclosing(backend.generate(request)) as events:
        return [token_id async for event in events if isinstance(event, TextDelta) for token_id in event.token_ids]


@pytest.fixture
async def expected(loaded: LoadedModel) -> AsyncIterator[list[list[int]]]:
    backend = TransformersBackend(loaded, "model", lambda: NOW_MS)
    yield [await ids(backend, request) for request in requests()]
    await backend.close()


@pytest.mark.parametrize("kv_tokens", [4096, 256])
@pytest.mark.parametrize("fails", [False, True])
async def test_answers_are_the_same_with_steps_of_several_under_way(
    loaded: LoadedModel, expected: list[list[int]], kv_tokens: int, fails: bool
) -> None:
    """Also when memory is scarce, and when a step of several fails."""
    kv_bytes = kv_tokens * 3 * 2 * 2 * 16 * 4
    backend = LanesBackend(loaded, "model", lambda: NOW_MS, EngineOptions(kv_bytes=kv_bytes))
    backend.runner.has_to_fail = backend.runner.refuses_to_begin = fails
    assert await asyncio.gather(*(ids(backend, request) for request in requests())) == expected
    assert backend.runner.most == LANES
    assert not (backend.runner.has_to_fail or backend.runner.refuses_to_begin)
    assert backend.runner.under_way == []
    await backend.close()


async def test_an_answer_that_nobody_reads_any_more_ends_when_its_step_is_done(loaded: LoadedModel) -> None:
    backend = LanesBackend(loaded, "model", lambda: NOW_MS)
    running = [asyncio.create_task(ids(backend, request)) for request in requests()]
    async with aclosing(backend.generate(ask("model", "x", max_tokens=200, ignore_eos=True))) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    await asyncio.gather(*running)
    assert backend.runner.under_way == []
    await backend.close()
