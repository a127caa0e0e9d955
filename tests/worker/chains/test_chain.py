"""A chain answers as the whole model does: alone and together, whatever is asked and wherever it is cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from p2pnet.answer_forms import RegexFormat
from p2pnet.messages import GenerateRequest, Sampling
from tests.checkpoints import build_checkpoint
from tests.stories import ask
from tests.worker.chains.chain_swarm import ChainSwarm, answer, answers, chain_swarm

LAYERS = 3


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
async def swarm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ChainSwarm]:
    async with chain_swarm(folder, folder.parent) as swarm:
        yield swarm


def requests() -> list[GenerateRequest]:
    long = "The quick brown fox jumps over the lazy dog. " * 3
    return [
        ask("model", "Once upon a time", max_tokens=12, sampling=Sampling(temperature=0)),
        ask("model", "Once upon a time there", max_tokens=12, sampling=Sampling(seed=3, temperature=0.8)),
        ask("model", long, max_tokens=8, sampling=Sampling(seed=4, top_p=0.9), logprobs=2),
        ask(
            "model",
            "Numbers: ",
            max_tokens=12,
            response_format=RegexFormat("[0-9]{3}-[a-z]{2}"),
            sampling=Sampling(seed=6),
        ),
        ask("model", "a", max_tokens=9, sampling=Sampling(seed=5), n=1, echo=True, logprobs=0),
    ]


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (1, 2)])
async def test_cut_anywhere_answers_are_those_of_the_whole_model(swarm: ChainSwarm, cuts: tuple[int, ...]) -> None:
    for first, last in zip((0, *cuts), (*cuts, LAYERS), strict=True):
        await swarm.stage(f"{first}", first, last)
    whole, driver = await swarm.whole(), await swarm.driver()
    expected = [await answer(whole, request) for request in requests()]
    found = [await answer(driver, request) for request in requests()]
    assert found == expected
    assert [each.logprobs for each in found] == [each.logprobs for each in expected]
    assert await answers(driver, requests() * 2) == expected * 2
