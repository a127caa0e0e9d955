"""Whatever happens to the stages of a chain, an answer goes on over others and is the one that it would have been."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from p2pnet.errors import WorkerFailed
from p2pnet.messages import GenerateRequest, Sampling
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.chains.chains import ChainTimes
from tests.checkpoints import build_checkpoint
from tests.depth import scaled
from tests.stories import ask
from tests.worker.chains.chain_swarm import QUICK, ChainSwarm, Site, answer, answers, chain_swarm, events_of

LAYERS = 3
STRIKES_AT = 10
"""The pass of a stage at which something happens to it: in the middle of the answer."""

REQUEST = ask("model", "Once upon a time", max_tokens=24, ignore_eos=True, sampling=Sampling(seed=3, temperature=0.8))


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[ChainSwarm]:
    async with chain_swarm(folder, folder.parent) as swarm:
        yield swarm


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What a stage that hangs waits for: the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def in_loop(act: Callable[[], Coroutine[Any, Any, object]]) -> Callable[[], None]:
    """What has an event loop do something, from the thread that computes."""
    loop = asyncio.get_running_loop()
    return lambda: (asyncio.run_coroutine_threadsafe(act(), loop), None)[1]


def failing() -> torch.Tensor:
    raise RuntimeError("out of luck")


Misfortune = Callable[[Site, threading.Event], Callable[[], torch.Tensor | None]]
MISFORTUNES: dict[str, Misfortune] = {
    "dies": lambda site, stuck: in_loop(site.kill),
    "fails": lambda site, stuck: failing,
    "gives what is no number": lambda site, stuck: lambda: torch.full((1, 64), float("nan")),
    "gives too little": lambda site, stuck: lambda: torch.zeros(0, 64),
    "hangs": lambda site, stuck: lambda: (stuck.wait(), None)[1],
    "stops": lambda site, stuck: in_loop(lambda: site.stage.stop(5.0)),
}


@pytest.mark.parametrize("span", [(0, 2), (2, 3)])
@pytest.mark.parametrize("misfortune", MISFORTUNES)
async def test_a_stage_that_is_lost_in_mid_answer_changes_nothing_of_it(
    swarm: ChainSwarm, stuck: threading.Event, misfortune: str, span: tuple[int, int]
) -> None:
    happens: list[Callable[[], torch.Tensor | None]] = []
    come = in_loop(lambda: swarm.stage("spare", *span))

    def strike(number: int, row: torch.Tensor) -> torch.Tensor | None:
        if number != STRIKES_AT:
            return None
        come()
        return happens[0]()

    for first, last in ((0, 2), (2, 3)):
        site = await swarm.stage(f"{first}", first, last, before=strike if (first, last) == span else quiet)
        if (first, last) == span:
            happens.append(MISFORTUNES[misfortune](site, stuck))
    driver = await swarm.driver(times=ChainTimes(heal_s=10, retry_s=0.01, avoid_s=30, step_s=0.5, token_s=0))
    assert await answer(driver, REQUEST) == await answer(await swarm.whole(), REQUEST)
    assert "spare" in swarm.sites


def quiet(number: int, row: torch.Tensor) -> None:
    """Nothing happens."""


async def test_a_stage_with_little_memory_forgets_and_computes_again(swarm: ChainSwarm) -> None:
    """Six answers at once have ids for more tokens than it holds; a conversation fits."""
    await swarm.stage("small", 0, 2, kv_tokens=256)
    await swarm.stage("large", 2, 3)
    driver = await swarm.driver()
    texts = [f"{number} " + "The quick brown fox jumps over the lazy dog." for number in range(6)]
    asked = [ask("model", text, max_tokens=8, ignore_eos=True, sampling=Sampling(seed=1)) for text in texts]
    assert await answers(driver, asked) == await answers(await swarm.whole(), asked)


async def test_a_driver_that_is_shared_out_of_its_memory_goes_on(swarm: ChainSwarm) -> None:
    """Another driver comes, and has its half: what the first one loses is computed again."""
    await swarm.stage("all", 0, LAYERS, kv_tokens=512)
    one, other = await swarm.driver("one"), await swarm.driver("other")
    whole = await swarm.whole()
    asked = [ask("model", f"{number}" * 80, max_tokens=6, ignore_eos=True) for number in range(4)]
    found = await asyncio.gather(answers(one, asked), answers(other, asked))
    assert found == [await answers(whole, asked)] * 2


async def test_an_idle_driver_holds_up_no_stage_that_stops(swarm: ChainSwarm) -> None:
    site, other = await swarm.stage("0", 0, 2), await swarm.stage("2", 2, 3)
    driver = await swarm.driver()
    expected = await answer(driver, REQUEST)
    async with asyncio.timeout(10):
        await site.stage.stop(1000)
    await swarm.stage("1", 0, 2)
    assert await answer(driver, REQUEST) == expected
    assert other.stage.drivers == 1  # it has kept what it had


async def test_a_stage_that_dies_while_nobody_asks_is_not_used_again(swarm: ChainSwarm) -> None:
    site, other = await swarm.stage("0", 0, 2), await swarm.stage("2", 2, 3)
    driver = await swarm.driver()
    expected = await answer(driver, REQUEST)
    await site.kill()
    await swarm.stage("1", 0, 2)
    assert await answer(driver, REQUEST) == expected
    assert other.stage.drivers == 1


async def test_the_model_is_offered_while_there_is_a_whole_chain(swarm: ChainSwarm) -> None:
    driver = await swarm.driver()
    assert driver.models == ()
    assert driver.missing == "layers 0 to 3 are missing"
    assert [(model.id, model.layers, model.missing) for model in driver.incomplete] == [("model", 3, ((0, 3),))]
    assert Catalogue([driver]).incomplete() == driver.incomplete
    await swarm.stage("0", 0, 2)
    await driver.look()
    assert (driver.models, driver.missing) == ((), "layers 2 to 3 are missing")
    await swarm.stage("2", 2, 3)
    await driver.look()
    assert [card.id for card in driver.models] == ["model"]
    assert (driver.models[0].digest, driver.missing) == ((await swarm.whole()).models[0].digest, "")
    assert driver.incomplete == ()


async def test_without_another_chain_the_answer_fails_and_says_what_is_missing(swarm: ChainSwarm) -> None:
    site = await swarm.stage("0", 0, 2)
    driver = await swarm.driver(times=ChainTimes(heal_s=0.05, retry_s=0.01))
    with pytest.raises(WorkerFailed, match="layers 2 to 3 are missing"):
        await events_of(driver, REQUEST)
    await swarm.stage("2", 2, 3)
    await site.kill()
    with pytest.raises(WorkerFailed):
        await events_of(driver, REQUEST)


async def test_a_driver_that_closes_waits_for_no_chain(swarm: ChainSwarm) -> None:
    driver = await swarm.driver(times=ChainTimes(heal_s=1000, retry_s=0.01))
    waiting = asyncio.create_task(events_of(driver, REQUEST))
    await asyncio.sleep(0)
    await driver.close()
    with pytest.raises(WorkerFailed):
        await waiting


async def test_a_driver_and_a_whole_worker_go_on_with_one_anothers_answers(swarm: ChainSwarm) -> None:
    await swarm.stage("all", 0, LAYERS)
    driver, whole = await swarm.driver(), await swarm.whole()
    expected = await answer(whole, REQUEST)
    for first, then in ((driver, whole), (whole, driver)):
        begun = (await answer(first, REQUEST)).ids[:9]
        rest = await answer(then, resumed(REQUEST, begun))
        assert begun + rest.ids == expected.ids
        assert rest.digest == expected.digest


def resumed(request: GenerateRequest, ids: tuple[int, ...]) -> GenerateRequest:
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return GenerateRequest(**{**fields, "resume_tokens": ids})


@pytest.mark.parametrize("seed", range(scaled(6, 150)))
async def test_random_cuts_deaths_and_delays_leave_all_answers_as_they_are(swarm: ChainSwarm, seed: int) -> None:
    rng = random.Random(seed)
    story = _Story(swarm, rng)
    swarm.world.faults.before_delivery = story.delay
    for first, last in story.cover() + story.cover():
        await story.come(first, last)
    driver = await swarm.driver(times=QUICK)
    asked = [
        ask("model", "abc " * rng.randint(1, 40), max_tokens=rng.randint(2, 20), sampling=Sampling(seed=number))
        for number in range(rng.randint(1, 5))
    ]
    found = await answers(driver, asked)
    assert found == await answers(await swarm.whole(), asked)


class _Story:
    """Stages that come and die as chance has it; for each that dies another comes."""

    def __init__(self, swarm: ChainSwarm, rng: random.Random) -> None:
        self._swarm = swarm
        self._rng = rng
        self._deaths = 5

    async def delay(self) -> None:
        for _ in range(self._rng.choice((0, 0, 1, 5))):
            await asyncio.sleep(0)

    def cover(self) -> list[tuple[int, int]]:
        """Spans that are all layers together, and may overlap."""
        cuts = sorted(self._rng.sample(range(1, LAYERS), self._rng.randint(0, LAYERS - 1)))
        spans = zip((0, *cuts), (*cuts, LAYERS), strict=True)
        return [(max(0, first - self._rng.randint(0, 1)), last) for first, last in spans]

    async def come(self, first: int, last: int) -> None:
        name = f"stage {len(self._swarm.sites)}"
        dies_at = self._rng.randint(1, 15) if self._deaths > 0 and self._rng.random() < 0.7 else 0
        self._deaths -= bool(dies_at)

        async def die() -> None:
            await self._swarm.sites[name].kill()
            await self.come(first, last)

        death = in_loop(die)

        def before(number: int, row: torch.Tensor) -> None:
            if number == dies_at:
                death()

        await self._swarm.stage(name, first, last, before=before)
