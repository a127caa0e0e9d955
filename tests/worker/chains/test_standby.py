"""When a stage is lost, the others compute nothing again; and where another stood by, it lacks a few tokens at most."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from p2pnet.messages import GenerateRequest, Sampling, TokenPrompt
from p2pnet.worker.backends.chain import ChainBackend
from p2pnet.worker.chains.chains import ChainTimes
from p2pnet.worker.chains.feeding import FEED_LAG, FEED_TOKENS
from p2pnet.worker.stages.replays import MAX_REPLAYED_PER_TOKEN
from tests.checkpoints import build_checkpoint
from tests.stories import settle_threads
from tests.worker.chains.chain_swarm import ChainSwarm, Site, answer, chain_swarm

SPANS = ((0, 1), (1, 2), (2, 3))
PATIENT = ChainTimes(heal_s=20, retry_s=0.01, avoid_s=30, step_s=20)
TURNS = 100_000


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint("llama", tmp_path_factory.mktemp("models") / "llama")


class Counted:
    """How many tokens each stage has computed, and what happens before a pass of one of them."""

    def __init__(self, swarm: ChainSwarm) -> None:
        self.swarm = swarm
        self.tokens: dict[str, int] = {}
        self.strikes: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {}

    async def stage(self, name: str, first: int, last: int) -> Site:
        self.tokens[name] = 0

        def before(number: int, row: torch.Tensor) -> torch.Tensor | None:
            self.tokens[name] += len(row)
            return self.strikes.get(name, lambda row: None)(row)

        return await self.swarm.stage(name, first, last, before=before)

    async def chain(self) -> ChainBackend:
        """A driver that has had an answer through a stage for each layer."""
        for first, last in SPANS:
            await self.stage(f"{first}", first, last)
        driver = await self.swarm.driver(times=PATIENT)
        await answer(driver, request(1, 1))
        return driver

    async def spare(self, driver: ChainBackend, span: tuple[int, int]) -> Site:
        """Another stage for a span, that stands by."""
        site = await self.stage("spare", *span)
        await driver.look()
        await settle_threads(lambda: site.stage.drivers == 1, TURNS)
        return site

    def has_computed(self, name: str, tokens: int) -> bool:
        return self.tokens[name] > tokens

    def kill(self, name: str, when: Callable[[], bool] = lambda: True) -> threading.Event:
        """Kill a stage in the midst of a pass, as soon as this is so."""
        loop, dead = asyncio.get_running_loop(), threading.Event()

        def strike(row: torch.Tensor) -> None:
            if when() and not dead.is_set():
                dead.set()
                asyncio.run_coroutine_threadsafe(self.swarm.sites[name].kill(), loop)

        self.strikes[name] = strike
        return dead


@pytest.fixture
async def counted(folder: Path) -> AsyncIterator[Counted]:
    async with chain_swarm(folder, folder.parent) as swarm:
        yield Counted(swarm)


def request(prompt_tokens: int, max_tokens: int) -> GenerateRequest:
    prompt = TokenPrompt(tuple(1 + number % 50 for number in range(prompt_tokens)))
    sampling = Sampling(seed=3, temperature=0.8)
    return GenerateRequest("r", "model", prompt, max_tokens=max_tokens, ignore_eos=True, sampling=sampling)


async def test_who_has_failed_and_is_started_again_stands_by(counted: Counted) -> None:
    """It is not in use for a while, where there are others."""
    driver = await counted.chain()
    spare = await counted.spare(driver, SPANS[1])
    dead = counted.kill("1")
    await answer(driver, request(1, 4))
    assert dead.is_set() and spare.stage.drivers == 1
    back = await counted.stage("1", *SPANS[1])
    await driver.look()
    await settle_threads(lambda: back.stage.drivers == 1, TURNS)
    assert await answer(driver, request(1, 4)) == await answer(await counted.swarm.whole(), request(1, 4))


@pytest.mark.parametrize("span", SPANS)
async def test_the_stages_that_are_left_compute_nothing_again(counted: Counted, span: tuple[int, int]) -> None:
    """Nobody stood by: the stage that takes the lost one's place is given what the one before it has kept."""
    driver = await counted.chain()
    asked, lost, before = request(100, 24), f"{span[0]}", dict(counted.tokens)
    dead = counted.kill(lost, lambda: counted.tokens[lost] - before[lost] > 108)
    answering = asyncio.create_task(answer(driver, asked))
    await settle_threads(dead.is_set, TURNS)
    await counted.stage("late", *span)
    assert await answering == await answer(await counted.swarm.whole(), asked)
    again = {name: counted.tokens[name] - before[name] - 123 for name in before if name != lost}
    assert all(tokens <= 2 for tokens in again.values())  # the step that failed
    assert 123 <= counted.tokens["late"] <= 125


async def test_where_nothing_may_be_passed_on_any_more_all_is_computed_again(counted: Counted) -> None:
    """The same place in the chain is lost more often than a stage passes on the same tokens."""
    driver = await counted.chain()
    asked, lost, before = request(100, 80), "1", dict(counted.tokens)
    answering = asyncio.create_task(answer(driver, asked))
    floor = before[lost]
    for number in range(MAX_REPLAYED_PER_TOKEN + 2):
        dead = counted.kill(lost, partial(counted.has_computed, lost, floor + 100 + 8 * (number + 1)))
        await settle_threads(dead.is_set, TURNS)
        lost, floor = f"late {number}", 0
        await counted.stage(lost, 1, 2)
    assert await answering == await answer(await counted.swarm.whole(), asked)
    assert 179 + 100 < counted.tokens["0"] - before["0"] < 2 * 179 + 20


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("prompt_tokens", [20, 160])
async def test_who_stood_by_lacks_as_little_of_a_long_text_as_of_a_short_one(
    counted: Counted, span: tuple[int, int], prompt_tokens: int
) -> None:
    driver = await counted.chain()
    await counted.spare(driver, span)
    asked, lost, before = request(prompt_tokens, 80), f"{span[0]}", dict(counted.tokens)
    at_death: dict[str, int] = {}

    def is_fed() -> bool:
        spare, computed = counted.tokens["spare"], counted.tokens[lost] - before[lost]
        if spare < prompt_tokens or computed - spare > 2 * FEED_LAG:
            return False
        at_death.update(spare=spare, lost=computed)
        return True

    dead = counted.kill(lost, is_fed)
    assert await answer(driver, asked) == await answer(await counted.swarm.whole(), asked)
    assert dead.is_set()
    total = prompt_tokens + 79
    caught_up = counted.tokens["spare"] - at_death["spare"] - (total - at_death["lost"])
    assert caught_up <= 3 * FEED_LAG + FEED_TOKENS < 160
    others = {name: counted.tokens[name] - before[name] for name in before if name not in (lost, "spare")}
    assert all(tokens <= total + 2 for tokens in others.values())


def nothing(row: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("out of luck")


@pytest.mark.parametrize(
    "strike",
    [nothing, lambda row: torch.full_like(row, float("nan")), lambda row: row[:0]],
    ids=["fails", "nan", "short"],
)
async def test_a_bad_stage_that_stands_by_costs_the_chain_nothing(
    counted: Counted, strike: Callable[[torch.Tensor], torch.Tensor | None]
) -> None:
    driver = await counted.chain()
    await counted.spare(driver, (1, 2))
    counted.strikes["spare"] = strike
    asked, before = request(60, 40), dict(counted.tokens)
    assert await answer(driver, asked) == await answer(await counted.swarm.whole(), asked)
    assert {counted.tokens[f"{first}"] - before[f"{first}"] for first, _ in SPANS} == {99}
    assert counted.tokens["spare"] > 0


async def test_a_stage_that_stands_by_and_dies_or_stops_is_not_missed(counted: Counted) -> None:
    driver = await counted.chain()
    site = await counted.spare(driver, (1, 2))
    asked, before = request(60, 30), dict(counted.tokens)
    counted.kill("spare")
    expected = await answer(await counted.swarm.whole(), asked)
    assert await answer(driver, asked) == expected
    assert {counted.tokens[f"{first}"] - before[f"{first}"] for first, _ in SPANS} == {89}
    assert site.stage.drivers == 0
