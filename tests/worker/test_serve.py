"""A worker put together: what its backends offer is served and announced, whatever comes and goes meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from p2pnet.client import generate
from p2pnet.config import WorkerConfig
from p2pnet.directory import Directory, validator
from p2pnet.errors import Busy, ModelNotFound, UsageError
from p2pnet.messages import Accepted, Finished, TextDelta, Usage
from p2pnet.network.memory import MemoryWorld
from p2pnet.records import ModelCard
from p2pnet.wire.exchange import EMBED_PROTOCOL, GENERATE_PROTOCOL, SCORE_PROTOCOL, STATUS_PROTOCOL, WATCH_PROTOCOL
from p2pnet.worker.serve import Worker
from tests.stories import ManualClock, ask, card, peer, settle
from tests.worker.scripted import Embedder, Scripted

WORKER, CLIENT = peer("worker"), peer("client")

ANSWER = (Accepted(1), TextDelta("a", (1,)), Finished("stop", Usage(1, 1)))
EMBEDS = card("tiny", task="embed")


class Site:
    """A worker in a world of its own, and a client there."""

    def __init__(self, *backends: Scripted, embedders: tuple[Embedder, ...] = ()) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.client = self.world.join(CLIENT.peer_id)
        self.reader = Directory(self.client, self.clock)
        self._backends = backends
        self._embedders = embedders

    async def start(self, slots: int = 8) -> Worker:
        network = self.world.join(WORKER.peer_id)
        config = WorkerConfig(max_concurrency=slots, drain_s=0)
        return await Worker.start(network, WORKER, self._backends, self.clock, config, embedders=self._embedders)

    async def ask(self, model: str) -> list[Accepted | TextDelta | Finished]:
        return [event async for event in generate(self.client, WORKER.peer_id, ask(model))]


async def test_a_model_is_served_from_when_it_comes_to_when_it_goes() -> None:
    site = Site(backend := Scripted(*ANSWER, models=()))
    worker = await site.start()
    assert await site.reader.workers() == ()
    with pytest.raises(ModelNotFound):
        await site.ask("late")
    backend.models = (card("late"),)
    assert [type(event) for event in await site.ask("late")] == [Accepted, TextDelta, Finished]
    backend.models = ()
    with pytest.raises(ModelNotFound):
        await site.ask("late")
    await worker.stop()


async def test_two_models_of_one_name_are_refused_at_the_start_and_the_first_serves_later() -> None:
    first, second = Scripted(*ANSWER, models=(card("tiny"),)), Scripted(models=(card("tiny"),))
    site = Site(first, second)
    with pytest.raises(UsageError, match="the name tiny"):
        await site.start()
    second.models = ()
    worker = await site.start()
    second.models = (card("tiny"),)
    assert isinstance((await site.ask("tiny"))[-1], Finished)
    assert (first.given, second.given) == (3, 0)
    await worker.stop()


SCORES = card("tiny", features=("text", "score"))
TASKS: dict[str, tuple[tuple[ModelCard, ...], tuple[ModelCard, ...], tuple[str, ...]]] = {
    "generates": ((card("tiny"),), (), (GENERATE_PROTOCOL,)),
    "generates and scores": ((SCORES,), (), (GENERATE_PROTOCOL, SCORE_PROTOCOL)),
    "embeds": ((), (EMBEDS,), (EMBED_PROTOCOL,)),
    "both, with one name": ((card("tiny"),), (EMBEDS,), (GENERATE_PROTOCOL, EMBED_PROTOCOL)),
}


@pytest.mark.parametrize(("generates", "embeds", "protocols"), TASKS.values(), ids=TASKS)
async def test_each_task_is_announced_with_its_protocol(
    generates: tuple[ModelCard, ...], embeds: tuple[ModelCard, ...], protocols: tuple[str, ...]
) -> None:
    site = Site(Scripted(models=generates), embedders=(Embedder(Scripted(models=embeds)),))
    worker = await site.start(slots=3)
    (record,) = await site.reader.workers()
    assert record.models == (*generates, *embeds)
    assert record.protocols == (*protocols, STATUS_PROTOCOL, WATCH_PROTOCOL)
    assert record.slots == 3 * len(record.models)
    for protocol in record.protocols:
        (await site.client.open_stream(WORKER.peer_id, protocol)).close()
    await worker.stop()


async def test_slots_are_counted_for_each_model_over_all_backends() -> None:
    backends = [Scripted(Accepted(1), asyncio.Event(), models=(card(name),)) for name in ("a", "b")]
    site = Site(*backends)
    worker = await site.start(slots=1)
    held = [generate(site.client, WORKER.peer_id, ask(model)) for model in ("a", "b")]
    for events in held:
        assert isinstance(await anext(events), Accepted)
    for model in ("a", "b"):
        with pytest.raises(Busy):
            await site.ask(model)
    for events in held:
        await events.aclose()
    await settle(lambda: not any(backend.running for backend in backends))
    await worker.stop()
