"""A model that nobody asks for leaves memory, and comes back the same: announced as cold, never as another one."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from p2pnet.answer_forms import JsonFormat
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import ContextOverflow, InvalidRequest, UsageError, WorkerFailed
from p2pnet.messages import Accepted, Finished, GenerateRequest, Sampling, TextDelta, TextPrompt, TokenPrompt
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.backends.embeddings import EmbeddingsBackend
from p2pnet.worker.backends.engine_backend import EngineOptions, Idling
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model
from p2pnet.worker.engine.residence import RETRY_S
from p2pnet.worker.engine.turns import Turns
from tests.checkpoints import CONTEXT_LENGTH, build_checkpoint
from tests.stories import settle
from tests.worker.timers import ManualTimers

IDLE_S = 600.0
KV_BYTES = 500_000
"""For a little more than one whole context of the checkpoint."""


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Site:
    """A backend of a real checkpoint, its timers, and whatever a test does to its loading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.timers = ManualTimers()
        self.cache = HashCache(folder.parent)
        self.loads = 0
        self.may_load = threading.Event()
        self.may_load.set()
        self.change: Callable[[LoadedModel], LoadedModel] = lambda loaded: loaded
        self.model: weakref.ref[Any] = weakref.ref(self)
        """The one that is in memory."""
        self.backend = TransformersBackend(
            self.load(), "m", lambda: 1, EngineOptions(kv_bytes=KV_BYTES), self.idling(self.load)
        )

    def idling(self, reload: Callable[[], LoadedModel]) -> Idling:
        return Idling(IDLE_S, reload, self.timers.call_later)

    def load(self) -> LoadedModel:
        self.loads += 1
        assert self.may_load.wait(timeout=60)
        loaded = self.change(load_model(self.folder, "cpu", "float32", self.cache))
        self.model = weakref.ref(loaded.model)
        return loaded

    @property
    def is_cold(self) -> bool:
        (card,) = self.backend.models
        return card.is_cold

    async def ask(self, prompt: str = "Once upon a time", **fields: Any) -> list[BackendEvent]:
        return [event async for event in self.backend.generate(request(prompt, **fields))]

    async def cool(self) -> None:
        """Nobody asks for a long time."""
        if not self.timers.delays_s:
            await self.ask(max_tokens=1)
        self.timers.go_off()
        await settle(lambda: self.model() is None, max_turns=10_000_000)


def request(prompt: str = "Once upon a time", **fields: Any) -> GenerateRequest:
    fields.setdefault("sampling", Sampling(temperature=0))
    return GenerateRequest("r1", fields.pop("model", "m"), TextPrompt(prompt), **fields)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(build_checkpoint("llama", tmp_path / "llama"))
    yield site
    site.may_load.set()
    await site.backend.close()
    assert site.model() is None
    assert site.timers.delays_s == []


async def test_it_leaves_memory_and_says_the_same_when_it_is_back(site: Site) -> None:
    """Given answers of many kinds, when it is unloaded and asked again, then they are the same, word for word."""
    cases: list[dict[str, Any]] = [
        {"max_tokens": 24},
        {"sampling": Sampling(seed=7, temperature=0.9), "max_tokens": 24, "n": 2, "logprobs": 3, "echo": True},
        {"sampling": Sampling(seed=8), "response_format": JsonFormat(), "max_tokens": 24},
    ]
    before = [await site.ask(**case) for case in cases]
    threads = threading.active_count()
    await site.cool()
    assert site.is_cold
    assert threading.active_count() <= threads, "the engine's thread is gone; one that unloads may have come"
    after = [await site.ask(**case) for case in cases]
    assert [said(events) for events in after] == [said(events) for events in before]
    assert len({said(events) for events in after}) == len(cases)
    assert not site.is_cold
    assert site.loads == 2


def said(events: list[BackendEvent]) -> str:
    """All of it but what was kept of earlier prompts, and in whose turn choices came."""
    deltas = sorted((event for event in events if isinstance(event, TextDelta)), key=lambda delta: delta.choice)
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
    return repr((events[0], deltas, events[-1].reason, events[-1].usage.completion_tokens))


async def test_it_is_offered_while_it_is_cold(site: Site) -> None:
    (warm,) = site.backend.models
    catalogue = Catalogue([site.backend])
    await site.cool()
    (cold,) = catalogue.cards()
    assert cold.is_cold and not warm.is_cold
    assert (cold.id, cold.digest, cold.context_length, cold.features) == (
        *(warm.id, warm.digest, warm.context_length, warm.features),
    )
    assert catalogue.find("m") is site.backend


async def test_counts_speeds_and_room_outlast_it(site: Site) -> None:
    long = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 4
    await site.ask(long, max_tokens=4)
    await site.ask(long, max_tokens=4)
    counts, load = site.backend.counts, site.backend.load
    assert counts.prefix_hits == 1
    assert load.decode_tokens_per_s.value > 0 and load.prefill_tokens_per_s.value > 0
    await site.cool()
    assert site.backend.counts == counts
    assert site.backend.load == load
    assert load.kv_free_tokens == load.kv_total_tokens > CONTEXT_LENGTH
    await site.ask(long, max_tokens=4)
    assert site.backend.counts.prompt_tokens == counts.prompt_tokens * 3 // 2
    assert site.backend.counts.prefix_hits == 1, "what it had computed is gone with it"


async def test_a_running_answer_keeps_it(site: Site) -> None:
    answer = site.backend.generate(request(max_tokens=8))
    assert isinstance(await anext(answer), Accepted)
    await anext(answer)
    assert site.timers.delays_s == []
    await answer.aclose()
    assert site.timers.delays_s == [IDLE_S]


async def test_who_asks_hears_at_once_and_waits_then(site: Site) -> None:
    await site.cool()
    site.may_load.clear()
    answer = site.backend.generate(request(max_tokens=8))
    assert isinstance(await anext(answer), Accepted)
    coming = asyncio.ensure_future(anext(answer))
    await settle(lambda: site.loads == 2, max_turns=10_000_000)
    assert site.is_cold
    site.may_load.set()
    assert isinstance(await coming, TextDelta)
    assert not site.is_cold
    await answer.aclose()


async def test_what_is_wrong_with_a_request_is_said_without_loading(site: Site) -> None:
    await site.cool()
    for fields, error in (
        ({"max_tokens": CONTEXT_LENGTH}, ContextOverflow),
        ({"stop_token_ids": (1 << 20,)}, InvalidRequest),
        ({"resume_tokens": (1, 2), "max_tokens": 1}, InvalidRequest),
    ):
        with pytest.raises(error):
            await site.ask(**fields)
    assert site.is_cold
    assert site.loads == 1


async def test_who_leaves_while_it_is_loaded_leaves_nothing_behind(site: Site) -> None:
    """Others that wait for it are served, and it idles as ever."""
    await site.cool()
    site.may_load.clear()
    leaving, staying = [asyncio.create_task(site.ask(max_tokens=8)) for _ in range(2)]
    await settle(lambda: site.loads == 2, max_turns=10_000_000)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    site.may_load.set()
    assert isinstance((await staying)[-1], Finished)
    assert site.timers.delays_s == [IDLE_S]


async def test_a_worker_that_stops_while_it_loads(site: Site) -> None:
    await site.cool()
    site.may_load.clear()
    waiting = asyncio.create_task(site.ask())
    await settle(lambda: site.loads == 2, max_turns=10_000_000)
    closing = asyncio.create_task(site.backend.close())
    await asyncio.sleep(0)
    site.may_load.set()
    await closing
    with pytest.raises(WorkerFailed, match="stopping"):
        await waiting


def spoil(folder: Path) -> Callable[[], object]:
    """Change the weights on the disk; returns what puts them back."""
    shard = max(folder.glob("*.safetensors"))
    good = shard.with_suffix(".good")
    shutil.copy2(shard, good)
    save_file({name: tensor + 1 for name, tensor in load_file(shard).items()}, shard, {"format": "pt"})
    return lambda: shutil.move(good, shard)


def take_away(folder: Path) -> Callable[[], object]:
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    return lambda: elsewhere.rename(folder)


@pytest.mark.parametrize(
    ("harm", "words"),
    [(spoil, "Its files have changed. Put them back, or start"), (take_away, "does not exist")],
    ids=["changed", "gone"],
)
async def test_files_that_are_not_the_same_any_more(
    site: Site, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], Callable[[], object]], words: str
) -> None:
    """The one who asked is told that this worker failed, the owner what to do, and nobody else asks for a while."""
    before = await site.ask(max_tokens=8)
    await site.cool()
    put_back = harm(site.folder)
    with pytest.raises(WorkerFailed, match="could not be loaded again") as failed:
        await site.ask(max_tokens=8)
    assert str(site.folder) not in failed.value.message
    assert words in caplog.text
    assert site.backend.models == Catalogue([site.backend]).cards() == ()
    assert site.timers.delays_s == [RETRY_S]
    put_back()
    site.timers.go_off()
    assert site.is_cold
    assert said(await site.ask(max_tokens=8)) == said(before)


def no_room(loaded: LoadedModel) -> LoadedModel:
    raise UsageError("The model needs 9.9 GB of memory, and 1.1 GB are free.", "Use a smaller model.")


def out_of_memory(loaded: LoadedModel) -> LoadedModel:
    raise MemoryError


def no_numbers(loaded: LoadedModel) -> LoadedModel:
    with torch.no_grad():
        loaded.model.model.norm.weight.fill_(float("nan"))
    return loaded


def wider(loaded: LoadedModel) -> LoadedModel:
    """Its keys and values take twice the memory, so there is room for half as many."""
    return replace(loaded, model=loaded.model.double())


@pytest.mark.parametrize("change", [no_room, out_of_memory, no_numbers, wider])
async def test_a_machine_that_has_no_room_for_it_any_more(
    tmp_path: Path,
    change: Callable[[LoadedModel], LoadedModel],
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site(build_checkpoint("llama", tmp_path / "llama"))
    try:
        await site.cool()
        site.change = change
        with pytest.raises(WorkerFailed, match="could not be loaded again"):
            await site.ask()
        assert site.backend.models == ()
        assert "m could not be loaded again" in caplog.text
        gc.collect()
        assert site.model() is None, "nothing holds what was loaded in vain"
    finally:
        await site.backend.close()


async def test_weights_that_embed_too_stay_for_that(tmp_path: Path) -> None:
    """The bundled model does both. Its vectors are the same while its other half is unloaded, and after."""
    cache = HashCache(tmp_path)

    def load() -> LoadedModel:
        return load_model(find_folder("tiny"), "cpu", "float32", cache)

    async def vector() -> list[Any]:
        asked = EmbedRequest("r1", "tiny", (TokenPrompt((1, 5, 9)),))
        return [event async for event in embedder.embed(asked)]

    timers, loaded = ManualTimers(), load()
    generator = TransformersBackend(loaded, "tiny", lambda: 0, idling=Idling(IDLE_S, load, timers.call_later))
    embedder = await EmbeddingsBackend.from_loaded(
        loaded, find_folder("tiny"), "tiny", cache_dir=tmp_path, turns=Turns(), now_ms=lambda: 0
    )
    before = await vector()
    asked = request(model="tiny", max_tokens=8)
    answer = [event async for event in generator.generate(asked)]
    timers.go_off()
    assert generator.models[0].is_cold
    assert await vector() == before
    assert said([event async for event in generator.generate(asked)]) == said(answer)
    assert await vector() == before
    await generator.close()
    await embedder.close()


async def test_from_the_command_line_on(tmp_path: Path) -> None:
    """Loaded by its name with the event loop's own timers: a model that nobody asks for in no time is cold at once."""
    folder = build_checkpoint("qwen2", tmp_path / "m")
    options: dict[str, Any] = {"now_ms": lambda: 0, "device": "cpu", "cache_dir": tmp_path, "idle_unload_s": 0.0}
    backend = await TransformersBackend.from_spec(str(folder), **options)
    answers = []
    for _ in range(2):
        await settle(lambda: backend.models[0].is_cold, max_turns=10_000_000)
        answers.append([event async for event in backend.generate(request(max_tokens=4))])
    assert said(answers[0]) == said(answers[1])
    await backend.close()
