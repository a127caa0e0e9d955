"""A small model makes drafts: right ones where it thinks alike, also at a temperature, and never another answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import torch

from p2pnet.errors import UsageError
from p2pnet.messages import GenerateRequest, Sampling
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, load_model
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.memory import BLOCK_TOKENS
from p2pnet.worker.engine.runner import Part, Runner, make_runner
from p2pnet.worker.engine.scheduler import Job
from p2pnet.worker.engine.speculation import Guessed, Speculation
from p2pnet.worker.speculation.draft_model import CATCH_UP_TOKENS, DraftModel
from p2pnet.worker.speculation.loading import load_draft_model
from tests.checkpoints import build_checkpoint
from tests.stories import NOW_MS, ask
from tests.worker.chains.chain_swarm import Answer, answers

WINDOW = 4
TOKENS = 4096
LONG = "The quick brown fox jumps over the lazy dog. " * 25


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """llama and mistral have the same tokens here, and qwen2 others."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama", "mistral", "qwen2"):
        build_checkpoint(name, folder / name)
    return lambda name: folder / name


@pytest.fixture(scope="module")
def large(models: Callable[[str], Path]) -> LoadedModel:
    return load_model(models("llama"), "cpu", "auto", HashCache(models("llama").parent))


class Window:
    """Has a drafter make WINDOW drafts of everything, and counts how many were right."""

    def __init__(self, drafter: DraftModel) -> None:
        self._drafter = drafter
        self.drafted: list[int] = []
        self.kept = 0

    def drafts(self, step: Sequence[Guessed]) -> list[Sequence[int]]:
        wanted = [(sequence, min(room, WINDOW)) for sequence, room in step if room]
        made = iter(self._drafter.drafts(wanted))
        found = [next(made) if room else () for _, room in step]
        self.drafted += [len(drafts) for drafts, (_, room) in zip(found, step, strict=True) if room]
        return found

    def heard(self, job: Job, chosen: Sequence[int]) -> None:
        self.kept += max(0, len(chosen) - 1)

    def forget(self, job: Job) -> None:
        self._drafter.forget(job)


def drafted(large: LoadedModel, speculation: Speculation | None) -> TransformersBackend:
    class Backend(TransformersBackend):
        def _speculation(self, runner: Runner) -> Speculation | None:
            return speculation

    return Backend(large, "model", lambda: NOW_MS)


def requests() -> list[GenerateRequest]:
    return [
        ask("model", text, max_tokens=20, ignore_eos=True, sampling=Sampling(seed=seed, temperature=temperature))
        for seed, (text, temperature) in enumerate([("Once upon a time", 0.0), ("abc", 0.8), (LONG, 0.8), ("x", 1.5)])
    ]


@pytest.fixture
async def expected(large: LoadedModel) -> AsyncIterator[list[Answer]]:
    backend = drafted(large, None)
    yield await answers(backend, requests())
    await backend.close()


def drafter_of(folder: Path, large: LoadedModel, tokens: int = TOKENS) -> DraftModel:
    return load_draft_model(folder, large, tokens, "cpu", HashCache(folder.parent))


async def test_a_model_that_thinks_alike_is_right_at_any_temperature(
    models: Callable[[str], Path], large: LoadedModel, expected: list[Answer]
) -> None:
    window = Window(drafter_of(models("llama"), large))
    backend = drafted(large, window)
    assert await answers(backend, requests()) == expected
    await backend.close()
    assert window.kept >= sum(window.drafted) - 2  # but for what rounding decides
    assert max(window.drafted) == WINDOW
    assert 0 in window.drafted  # the long prompt is read in pieces


async def test_a_model_that_thinks_otherwise_changes_nothing(
    models: Callable[[str], Path], large: LoadedModel, expected: list[Answer]
) -> None:
    window = Window(drafter_of(models("mistral"), large))
    backend = drafted(large, window)
    assert await answers(backend, requests()) == expected
    assert await answers(backend, requests()[:1]) == expected[:1]
    await backend.close()
    assert window.kept < sum(window.drafted) / 2


class Failing:
    """A runner that fails at its tenth pass."""

    is_packed = True

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.passes = 0

    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        assert all(len(part.ids) <= CATCH_UP_TOKENS for part in parts)
        self.passes += 1
        if self.passes == 10:
            raise RuntimeError("out of luck")
        return self._runner.forward(parts)


async def test_a_model_that_fails_is_not_asked_again(
    models: Callable[[str], Path], large: LoadedModel, expected: list[Answer]
) -> None:
    small = load_model(models("llama"), "cpu", "auto", HashCache(models("llama").parent))
    failing = Failing(make_runner(small.model))
    drafter = DraftModel(failing, KvStore(TOKENS), small.context_length, large.vocabulary_size)
    backend = drafted(large, Window(drafter))
    assert await answers(backend, requests()) == expected
    await backend.close()
    assert failing.passes == 10


async def test_without_memory_for_an_answer_none_of_it_is_drafted(
    models: Callable[[str], Path], large: LoadedModel, expected: list[Answer]
) -> None:
    """And what one answer had is another one's when it is over."""
    window = Window(drafter_of(models("llama"), large, 4 * BLOCK_TOKENS))
    backend = drafted(large, window)
    for _ in range(3):
        assert await asyncio.gather(answers(backend, requests()[:2])) == [expected[:2]]
    assert window.kept > 3 * 2 * 10
    window.drafted.clear()
    assert await answers(backend, requests()[2:3]) == expected[2:3]
    await backend.close()
    assert set(window.drafted) == {0}


def test_a_model_with_other_tokens_is_refused_with_the_reason(
    models: Callable[[str], Path], large: LoadedModel
) -> None:
    with pytest.raises(UsageError, match="has other tokens than the one that it is to draft for") as refused:
        drafter_of(models("qwen2"), large)
    assert "same family" in (refused.value.fix or "")
