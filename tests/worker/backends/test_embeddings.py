"""The backend that embeds: requests served together and fairly, and each failing for itself only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from p2pnet import client
from p2pnet.directory import validator
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import ContextOverflow, InvalidRequest, ModelNotFound, P2PNetError, WorkerFailed
from p2pnet.messages import Accepted, Finished, Measure, TextPrompt, TokenPrompt, Usage
from p2pnet.network.interface import Network
from p2pnet.network.memory import MemoryWorld
from p2pnet.wire.exchange import EMBED_PROTOCOL
from p2pnet.worker.backend import EmbedBackendEvent
from p2pnet.worker.backends.embeddings import EmbeddingsBackend
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import find_folder, load_model
from p2pnet.worker.checkpoints.names import TINY
from p2pnet.worker.embedding.encoder import Encoder, load_encoder
from p2pnet.worker.embedding.queue import MAX_UNREAD_VECTORS
from p2pnet.worker.engine.turns import Turns
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.embed_handler import EmbedHandler
from tests.encoders import build_encoder, build_model
from tests.stories import ManualClock, peer

NOW_MS = 1_800_000_000_000
BATCH_TOKENS = 64

SOON_S = 20.0

T = TypeVar("T")

Input = str | Sequence[int]


class Watched(Encoder):
    """An encoder that remembers its batches, and may be made to fail at some of them."""

    @classmethod
    def around(
        cls, encoder: Encoder, fails: Callable[[Sequence[Sequence[int]]], bool] = lambda inputs: False
    ) -> Watched:
        watched = cls(**{field.name: getattr(encoder, field.name) for field in fields(encoder)})
        watched.__dict__["batches"] = list[Sequence[Sequence[int]]]()
        watched.__dict__["begun"] = threading.Event()
        watched.__dict__["fails"] = fails
        return watched

    def embed(self, inputs: Sequence[Sequence[int]]) -> torch.Tensor:
        self.__dict__["batches"].append(inputs)
        if self.__dict__["fails"](inputs):
            raise RuntimeError("made to fail")
        return super().embed(inputs)

    @property
    def batches(self) -> list[Sequence[Sequence[int]]]:
        return self.__dict__["batches"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Reads 32 tokens and gives 48 numbers."""
    folder = tmp_path_factory.mktemp("bert")
    return load_encoder(build_encoder("bert", folder), "cpu", "float32", HashCache(folder / "cache"))


@asynccontextmanager
async def serving(encoder: Encoder, turns: Turns | None = None) -> AsyncIterator[EmbeddingsBackend]:
    backend = EmbeddingsBackend(encoder, "bert", turns or Turns(), lambda: NOW_MS, BATCH_TOKENS)
    try:
        yield backend
    finally:
        await backend.close()


@contextmanager
def held(turns: Turns) -> Iterator[Callable[[], None]]:
    """Somebody else computes until the test says otherwise."""
    release, has_it = threading.Event(), threading.Event()

    def hold() -> None:
        has_it.set()
        release.wait()

    thread = threading.Thread(target=turns.run, args=(hold,))
    thread.start()
    has_it.wait()
    try:
        yield release.set
    finally:
        release.set()
        thread.join()


def ask(*inputs: Input, model: str = "bert", **fields: Any) -> EmbedRequest:
    prompts = tuple(TextPrompt(each) if isinstance(each, str) else TokenPrompt(tuple(each)) for each in inputs)
    return EmbedRequest("r1", model, prompts, **fields)


async def events_of(backend: EmbeddingsBackend, request: EmbedRequest) -> list[EmbedBackendEvent]:
    return [event async for event in backend.embed(request)]


def vectors_in(events: Sequence[EmbedBackendEvent]) -> dict[int, np.ndarray]:
    return {event.index: np.frombuffer(event.vector, "<f4") for event in events if isinstance(event, Embedding)}


# ---- one request


async def test_a_request_is_accepted_then_each_input_embedded_then_finished(encoder: Encoder) -> None:
    texts = ("one", "two words", "", "Grüße " * 40)
    async with serving(encoder) as backend:
        accepted, *middle, finished = await events_of(backend, ask(*texts))
    ids = [encoder.tokenize(text) for text in texts]
    assert accepted == Accepted(sum(map(len, ids)), encoder.digest)
    assert finished == Finished("stop", Usage(sum(map(len, ids)), 0))
    vectors = vectors_in(middle)
    assert sorted(vectors) == [0, 1, 2, 3] and len(middle) == 4
    for index, wanted in enumerate(encoder.embed(ids)):
        assert np.abs(vectors[index] - wanted.numpy()).max() <= 1e-6


async def test_ids_are_embedded_as_the_text_that_they_came_from(encoder: Encoder) -> None:
    async with serving(encoder) as backend:
        vectors = vectors_in(await events_of(backend, ask("some words", encoder.tokenize("some words"))))
    assert np.array_equal(vectors[0], vectors[1])


async def test_dimensions_cut_and_normalize_again(encoder: Encoder) -> None:
    async with serving(encoder) as backend:
        whole = vectors_in(await events_of(backend, ask("some words")))[0]
        short = vectors_in(await events_of(backend, ask("some words", dimensions=10)))[0]
        same = vectors_in(await events_of(backend, ask("some words", dimensions=48)))[0]
    assert short.shape == (10,)
    assert np.abs(short - whole[:10] / np.linalg.norm(whole[:10])).max() <= 1e-6
    assert np.abs(same - whole).max() <= 1e-6


REFUSED: list[tuple[str, EmbedRequest, type[P2PNetError], str]] = [
    ("another model", ask("x", model="other"), ModelNotFound, "other"),
    ("another digest", ask("x", digest="sha256:" + "0" * 64), ModelNotFound, "digest"),
    ("too many dimensions", ask("x", dimensions=49), InvalidRequest, "48"),
    ("an unknown id", ask("x", [5, 100_000]), InvalidRequest, "100000 of input 1"),
    ("too many ids", ask([5] * 33), ContextOverflow, "33"),
    ("too long a text that is not to be cut", ask("word " * 40, truncate=False), ContextOverflow, "more than 32"),
    ("a very long one", ask("x", "word " * 40_000, truncate=False), ContextOverflow, "input 1"),
]


@pytest.mark.parametrize(
    ("request_", "kind", "named"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_refused_before_it_is_accepted(
    encoder: Encoder, request_: EmbedRequest, kind: type[P2PNetError], named: str
) -> None:
    async with serving(encoder) as backend:
        with pytest.raises(kind, match=named) as refusal:
            await events_of(backend, request_)
    assert type(refusal.value) is kind


async def test_a_text_of_no_tokens_is_refused(tmp_path: Path) -> None:
    folder = find_folder(TINY)
    loaded = await asyncio.to_thread(load_model, folder, "cpu", "float32", HashCache(tmp_path))
    backend = await EmbeddingsBackend.from_loaded(
        loaded, folder, "tiny", cache_dir=tmp_path, turns=Turns(), now_ms=lambda: NOW_MS
    )
    try:
        with pytest.raises(InvalidRequest, match="Input 1 is empty"):
            await events_of(backend, ask("x", "", model="tiny"))
        assert len(vectors_in(await events_of(backend, ask("x", "y", model="tiny")))) == 2
    finally:
        await backend.close()


async def test_the_card_says_what_is_served(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(build_model, "roberta", tmp_path)
    backend = await EmbeddingsBackend.from_folder(
        folder, "r", device="auto", dtype="auto", cache_dir=tmp_path, turns=Turns(), now_ms=lambda: NOW_MS
    )
    try:
        (card,) = backend.models
        assert (card.id, card.task, card.context_length, card.dtype) == ("r", "embed", 64, "float32")
        assert {"tokens", "dimensions"} <= set(card.features)
        assert backend.load.prefill_tokens_per_s == Measure()
        await events_of(backend, ask("some words", model="r"))
        assert backend.load.prefill_tokens_per_s.value > 0
        assert backend.load.prefill_tokens_per_s.sampled_ms == NOW_MS
    finally:
        await backend.close()


async def test_a_client_is_served_over_the_network(encoder: Encoder) -> None:
    clock = ManualClock()
    world = MemoryWorld(validator(clock))
    worker, asking = (world.join(peer(name).peer_id) for name in ("worker", "client"))
    async with serving(encoder) as backend:
        meter = LoadMeter(8, Catalogue([backend]), clock)  # type: ignore[list-item]
        await worker.handle(EMBED_PROTOCOL, EmbedHandler({"bert": backend}.get, meter))
        texts = [f"text number {i}" for i in range(40)]
        requests = [ask(*texts), ask(*texts[:3], dimensions=7), ask("x", dimensions=500)]
        found = await asyncio.gather(
            *(served(asking, worker.peer_id, each) for each in requests), return_exceptions=True
        )
    wanted = encoder.embed([encoder.tokenize(text) for text in texts]).numpy()
    assert isinstance(found[0], list) and isinstance(found[1], list)
    assert all(np.abs(vector - wanted[index]).max() <= 1e-6 for index, vector in vectors_in(found[0]).items())
    assert [vector.shape for vector in vectors_in(found[1]).values()] == [(7,)] * 3
    assert type(found[2]) is InvalidRequest


async def served(network: Network, peer_id: str, request: EmbedRequest) -> list[EmbedBackendEvent]:
    return [event async for event in client.embed(network, peer_id, request)]


# ---- several requests


async def test_requests_that_wait_are_computed_together(encoder: Encoder) -> None:
    watched, turns = Watched.around(encoder), Turns()
    async with serving(watched, turns) as backend:
        with held(turns) as release:
            async with AsyncExitStack() as opened:
                streams = [
                    await opened.enter_async_context(aclosing(backend.embed(ask(f"word {i}")))) for i in range(6)
                ]
                accepted = [await anext(stream) for stream in streams]
                waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
                await asyncio.sleep(0)  # each is tokenized, so one turn takes all of them into the queue
                release()
                vectors = await asyncio.gather(*waiting)
    assert all(isinstance(event, Accepted) for event in accepted)
    assert all(isinstance(event, Embedding) for event in vectors)
    assert len(watched.batches) <= 3, "one that was taken before the others came, and two with all others"


async def test_a_small_request_does_not_wait_behind_a_large_one(encoder: Encoder) -> None:
    watched, turns = Watched.around(encoder), Turns()
    async with serving(watched, turns) as backend:
        with held(turns) as release:
            large = backend.embed(ask(*["a text of some words"] * 2048))
            small = backend.embed(ask("a text of other words"))
            async with aclosing(large), aclosing(small):
                await anext(large), await anext(small)
                waiting = [asyncio.create_task(take(large, 1)), asyncio.create_task(take(small, 2))]
                release()
                await asyncio.gather(*waiting)
    computed = [tuple(ids) for batch in watched.batches for ids in batch]
    assert computed.index(encoder.tokenize("a text of other words")) < 3 * BATCH_TOKENS


async def take(events: AsyncIterator[EmbedBackendEvent], count: int) -> None:
    for _ in range(count):
        await anext(events)


async def test_of_a_request_that_is_cancelled_the_rest_is_not_computed(encoder: Encoder) -> None:
    watched = Watched.around(encoder)
    async with serving(watched) as backend:
        async with aclosing(backend.embed(ask(*["words"] * 2048))) as events:
            await take(events, 2)
        await events_of(backend, ask("another"))
        seen = len(watched.batches)
        await events_of(backend, ask("another"))
        assert len(watched.batches) == seen + 1, "only what was asked for last"
    assert sum(map(len, watched.batches)) < 2048


async def test_a_reader_that_falls_behind_holds_up_only_itself(encoder: Encoder) -> None:
    watched = Watched.around(encoder)
    async with serving(watched) as backend, aclosing(backend.embed(ask(*["words"] * 2048))) as slow:
        await take(slow, 2)
        for _ in range(50):
            await events_of(backend, ask("a different text"))
        ids = encoder.tokenize("words")
        assert sum(batch.count(ids) for batch in map(list, watched.batches)) <= MAX_UNREAD_VECTORS + 1
        await take(slow, 2048)
        with pytest.raises(StopAsyncIteration):
            await anext(slow)


# ---- failures


async def test_an_input_that_fails_costs_its_own_request_only(encoder: Encoder) -> None:
    bad = encoder.tokenize("bad")
    watched, turns = Watched.around(encoder, lambda inputs: bad in [tuple(ids) for ids in inputs]), Turns()
    async with serving(watched, turns) as backend:
        with held(turns) as release:
            requests = [ask("good"), ask("bad", "god"), ask("fine"), ask("well")]
            tasks = [asyncio.create_task(events_of(backend, request)) for request in requests]
            release()
            found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [list, WorkerFailed, list, list]
    assert str(found[1]) == "the model failed while it computed"


async def test_numbers_that_are_none_are_not_sent(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(build_encoder, "bert", tmp_path)
    broken = load_encoder(folder, "cpu", "float32", HashCache(tmp_path))
    only_in_fox = set(broken.tokenize("fox")) - set(broken.tokenize("dog cat"))
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[list(only_in_fox)] = float("nan")
    async with serving(broken) as backend:
        with pytest.raises(WorkerFailed, match="no numbers for input 1"):
            await events_of(backend, ask("dog", "fox"))
        assert len(vectors_in(await events_of(backend, ask("dog", "cat")))) == 2


class Misshapen(Watched):
    """An encoder whose vectors are not what it says."""

    def embed(self, inputs: Sequence[Sequence[int]]) -> torch.Tensor:
        return self.__dict__["spoil"](super().embed(inputs))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "spoil", [lambda vectors: vectors[1:], lambda vectors: vectors.bfloat16(), lambda vectors: vectors[:, 0]]
)
async def test_vectors_that_cannot_be_told_fail_their_requests(
    encoder: Encoder, spoil: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """One too few, in numbers that numpy does not know, or none at all: whoever waits is told."""
    misshapen = Misshapen.around(encoder)
    misshapen.__dict__["spoil"] = spoil
    async with serving(misshapen) as backend, asyncio.timeout(SOON_S):
        for _ in range(2):
            with pytest.raises(WorkerFailed, match="the model failed while it computed"):
                await events_of(backend, ask("some words", "others", dimensions=4))


class NoTurns(Turns):
    """Of a machine that gives no turn for once."""

    is_out = True

    async def take(self, step: Callable[[], T]) -> T:
        if self.is_out:
            raise RuntimeError("no thread could be started")
        return await super().take(step)


async def test_a_turn_that_could_not_be_taken_fails_who_waits_and_nobody_later(encoder: Encoder) -> None:
    turns = NoTurns()
    async with serving(encoder, turns) as backend, asyncio.timeout(SOON_S):
        with pytest.raises(WorkerFailed, match="the model failed while it computed"):
            await events_of(backend, ask("some words"))
        turns.is_out = False
        assert len(vectors_in(await events_of(backend, ask("some words")))) == 1


async def test_what_is_wanted_while_it_closes_fails(encoder: Encoder) -> None:
    turns = Turns()
    async with serving(encoder, turns) as backend, asyncio.timeout(SOON_S):
        with held(turns) as release:
            events = backend.embed(ask("some words"))
            await anext(events)
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(backend.close())
            with pytest.raises(WorkerFailed, match="the worker is stopping"):
                await waiting
            release()
        await closing


async def test_nothing_is_left_after_closing(encoder: Encoder) -> None:
    async with serving(encoder) as backend:
        await events_of(backend, ask("some words"))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(("embed", "tokenize"))] == []
