"""One bad request, one bad reader, one failed step: that one fails, and all others are answered as if it had not been.

What is wrong is told by a token: a sequence whose prompt ends with POISON, which no other ever samples.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from p2pnet.errors import ContextOverflow, WorkerFailed
from p2pnet.messages import Accepted, Sampling, TextDelta, TokenPrompt
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.engine.engine import MAX_LEAD_DELTAS, Engine
from p2pnet.worker.engine.kv_store import Kv, KvStore
from p2pnet.worker.engine.runner import make_runner
from p2pnet.worker.engine.scheduler import Scheduler, SchedulerLimits
from p2pnet.worker.engine.sequence import Sequence as Sequence_
from p2pnet.worker.engine.sequence import SequencePlan
from p2pnet.worker.engine.speed import Speedometer
from p2pnet.worker.engine.turns import Turns
from p2pnet.worker.text.constraint import Constraint
from p2pnet.worker.text.detokenizer import Detokenizer, invisible_ids
from p2pnet.worker.text.emission import Emitter
from tests.checkpoints import CONTEXT_LENGTH
from tests.worker.answers import Answer, Models, answer, ask, serve

POISON = 300
CALM = Sampling(temperature=0, logit_bias={POISON: -100})


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return Models(tmp_path_factory.mktemp("checkpoints"))("llama")


@pytest.fixture
async def backend(llama: LoadedModel) -> AsyncIterator[TransformersBackend]:
    backend = serve(llama)
    yield backend
    await backend.close()


OTHERS = [
    ask(
        TokenPrompt(tuple(range(10 * index + 5, 10 * index + 5 + length))),
        sampling=CALM,
        max_tokens=30,
        ignore_eos=True,
    )
    for index, length in enumerate((1, 9, 40, 100, 150))
]
BAD = ask(TokenPrompt((7, 8, 9, POISON)), sampling=CALM, max_tokens=5)


async def others_beside(
    backend: TransformersBackend, bad: Callable[[], Any], expected: type[Exception], words: str
) -> None:
    """Given answers under way, when a bad request comes, then it fails, and they are what they are alone."""
    alone = [await answer(backend, request) for request in OTHERS]
    found = await asyncio.gather(*(answer(backend, request) for request in OTHERS), bad(), return_exceptions=True)
    for one, other in zip(alone, found[:-1], strict=True):
        assert isinstance(other, Answer), other
        assert (other.choices, other.reasons) == (one.choices, one.reasons)
    assert isinstance(found[-1], expected), found[-1]
    assert words in str(found[-1])


@contextmanager
def poisoned(loaded: LoadedModel, error: Exception | None) -> Iterator[None]:
    """With an error, each pass with POISON in it raises it; without, the logits after POISON are not numbers."""

    def before(_model: object, _arguments: object, options: dict[str, Any]) -> None:
        if error is not None and POISON in options["input_ids"]:
            raise error

    def after(_model: object, _arguments: object, options: dict[str, Any], output: Any) -> None:
        kept = options["input_ids"][0, options["logits_to_keep"]]
        if error is None:
            output.logits[0, kept == POISON] = float("nan")

    hooks = [
        loaded.model.register_forward_pre_hook(before, with_kwargs=True),
        loaded.model.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


FAULTS: list[tuple[str, Exception | None, str]] = [
    ("not a number", None, "not numbers"),
    ("torch says no", RuntimeError("mat1 and mat2"), "failed while it computed"),
    ("a bug", KeyError("surprise"), "failed while it computed"),
    ("no memory", MemoryError(), "ran out of memory"),
    ("no memory on the device", torch.OutOfMemoryError("tried to allocate"), "ran out of memory"),
]


@pytest.mark.parametrize(("error", "words"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
async def test_what_one_sequence_does_to_the_model(
    llama: LoadedModel, backend: TransformersBackend, error: Exception | None, words: str
) -> None:
    with poisoned(llama, error):
        await others_beside(backend, lambda: answer(backend, BAD), WorkerFailed, words)
    assert backend.load.kv_free_tokens == backend.load.kv_total_tokens


async def test_logprobs_of_a_prompt_that_are_not_numbers(llama: LoadedModel, backend: TransformersBackend) -> None:
    bad = ask(TokenPrompt((7, POISON, 9)), sampling=CALM, max_tokens=1, echo=True, logprobs=2)
    with poisoned(llama, None):
        await others_beside(backend, lambda: answer(backend, bad), WorkerFailed, "not numbers")


async def test_too_long_a_prompt(backend: TransformersBackend) -> None:
    bad = ask(TokenPrompt((7,) * CONTEXT_LENGTH))
    await others_beside(backend, lambda: answer(backend, bad), ContextOverflow, "context length")


class Fragile:
    """A tokenizer that fails at POISON, and at the word "boom"."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: str) -> Any:
        if "boom" in text:
            raise RuntimeError("the tokenizer failed")
        return self._tokenizer(text)

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        if POISON in ids:
            raise RuntimeError("the tokenizer failed")
        return str(self._tokenizer.decode(ids, **options))


@pytest.mark.parametrize("bad", [
    ("boom", {}, RuntimeError, "the tokenizer failed"),
    ("Once", {"sampling": Sampling(logit_bias={POISON: 100})}, WorkerFailed, "failed while it computed"),
], ids=["while it reads", "while it writes"])  # fmt: skip
async def test_a_tokenizer_that_fails(
    llama: LoadedModel, bad: tuple[str, dict[str, Any], type[Exception], str]
) -> None:
    prompt, fields, expected, words = bad
    backend = serve(replace(llama, tokenizer=Fragile(llama.tokenizer)))
    await others_beside(backend, lambda: answer(backend, ask(prompt, **fields)), expected, words)
    await backend.close()


async def test_a_reader_that_vanishes(backend: TransformersBackend) -> None:
    """Nobody closes the generator; that it is gone is enough."""

    async def vanish() -> None:
        events = backend.generate(ask(sampling=CALM, ignore_eos=True, max_tokens=400))
        for _ in range(5):
            await anext(events)
        del events
        gc.collect()
        raise RuntimeError("gone")

    await others_beside(backend, vanish, RuntimeError, "gone")


async def test_readers_that_stop_reading(llama: LoadedModel) -> None:
    """They hold all the memory there is, begin as others do, and others are answered all the same."""
    backend = serve(llama, kv_tokens=CONTEXT_LENGTH)
    slow = [backend.generate(ask(sampling=CALM, ignore_eos=True, max_tokens=200 + index)) for index in range(4)]
    for events in slow:
        assert isinstance(await anext(events), Accepted)
        assert isinstance(await anext(events), TextDelta)
    for request in OTHERS:
        assert (await answer(backend, request)).usage.completion_tokens == 30
    for index, events in enumerate(slow):
        rest = [event async for event in events]
        assert rest[-1].usage.completion_tokens == 200 + index  # type: ignore[union-attr]
    await backend.close()


@dataclass
class Bench:
    """An engine put together by hand, so that its parts can be looked at and replaced."""

    loaded: LoadedModel
    store: KvStore
    scheduler: Scheduler
    engine: Engine

    def sequence(self, prompt: Sequence[int], max_tokens: int, constraint: Constraint | None = None) -> Sequence_:
        plan = SequencePlan(tuple(prompt), max_tokens, CALM, frozenset())
        detokenizer = Detokenizer(self.loaded.tokenizer, invisible_ids(self.loaded.tokenizer))
        return Sequence_(plan, Emitter(detokenizer, ()), lambda _: b"", constraint)

    async def ids(self, sequence: Sequence_) -> list[int]:
        return [token_id async for delta in self.engine.answer(sequence) for token_id in delta.token_ids]


def bench(loaded: LoadedModel, store: KvStore, limits: SchedulerLimits | None = None) -> Bench:
    scheduler = Scheduler(store, limits or SchedulerLimits(), shares_prefixes=True)
    engine = Engine(make_runner(loaded.model), scheduler, Turns(), Speedometer(lambda: 0))
    return Bench(loaded, store, scheduler, engine)


class Stubborn:
    """A form that fails after a few tokens."""

    is_complete = False

    def __init__(self, size: int, accepted: int) -> None:
        self._size, self._left = size, accepted

    def allowed(self) -> torch.Tensor:
        return torch.ones(self._size, dtype=torch.bool)

    def accept(self, token_id: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError("the form failed")


async def test_a_form_that_fails(llama: LoadedModel) -> None:
    tried = bench(llama, KvStore(2048))
    alone = await tried.ids(tried.sequence([5, 6], 20))
    bad = tried.sequence([7, 8], 20, Stubborn(llama.vocabulary_size, 3))
    found, failure = await asyncio.gather(tried.ids(tried.sequence([5, 6], 20)), tried.ids(bad), return_exceptions=True)
    assert found == alone
    assert isinstance(failure, WorkerFailed)
    await tried.engine.close()


class Broken(KvStore):
    """Memory that fails once, where no sequence is to blame."""

    fails = 1

    def open(self, tokens: int) -> Kv | None:
        if self.fails:
            self.fails -= 1
            raise MemoryError
        return super().open(tokens)


async def test_what_fails_between_two_steps_ends_what_was_running_and_not_the_engine(llama: LoadedModel) -> None:
    tried = bench(llama, Broken(2048))
    with pytest.raises(WorkerFailed, match="the worker failed"):
        await tried.ids(tried.sequence([5, 6], 20))
    assert len(await tried.ids(tried.sequence([5, 6], 20))) == 20
    await tried.engine.close()


async def test_closing_ends_what_runs(llama: LoadedModel) -> None:
    tried = bench(llama, KvStore(2048), SchedulerLimits(max_running=2))
    answers = [tried.engine.answer(tried.sequence([5 + index], 400)) for index in range(4)]
    for running in answers[:2]:
        await anext(running)
    ends = [asyncio.ensure_future(_read(running)) for running in answers]
    await asyncio.sleep(0)
    await tried.engine.close()
    assert [str(end) for end in await asyncio.gather(*ends, return_exceptions=True)] == ["the worker is stopping"] * 4
    with pytest.raises(WorkerFailed, match="stopping"):
        await tried.ids(tried.sequence([5], 3))


async def _read(running: Any) -> None:
    async for _ in running:
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its generator cannot end any more
def test_an_event_loop_that_is_gone(llama: LoadedModel) -> None:
    """Nobody reads, nobody closes; others, in another loop, are answered."""
    tried = bench(llama, KvStore(2048))
    loop = asyncio.new_event_loop()
    running = tried.engine.answer(tried.sequence([5, 6], 400))
    loop.run_until_complete(anext(running))
    loop.close()

    async def another() -> None:
        assert len(await tried.ids(tried.sequence([5, 6], 20))) == 20
        await tried.engine.close()

    asyncio.run(another())


async def test_after_two_hundred_cancellations_the_engine_is_empty(llama: LoadedModel) -> None:
    """Cut at random moments, waiting ones too, by closing and by cancelling whoever reads."""
    draw = random.Random(5)
    tried = bench(llama, KvStore(1024), SchedulerLimits(max_running=6, chunk_alone=32, chunk_beside=16))
    alone = await tried.ids(tried.sequence([5, 6], 150))
    survivor = asyncio.ensure_future(tried.ids(tried.sequence([5, 6], 150)))

    async def cut(deltas: int, prompt: list[int]) -> None:
        async with aclosing(tried.engine.answer(tried.sequence(prompt, 200))) as running:
            async for _ in running:
                deltas -= 1
                if deltas < 0:
                    break

    for _ in range(10):
        readers = [
            asyncio.ensure_future(
                cut(draw.randrange(8), [draw.randrange(5, 290) for _ in range(draw.choice([1, 40, 120]))])
            )
            for _ in range(20)
        ]
        for reader in draw.sample(readers, 8):
            await asyncio.wait([draw.choice(readers)])
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    assert await survivor == alone
    await tried.engine.close()
    tried.scheduler.forget_prefixes()
    assert (list(tried.scheduler.running), list(tried.scheduler.waiting)) == ([], [])
    assert tried.store.free_tokens == tried.store.total_tokens


async def test_a_reader_that_just_keeps_up_is_never_forgotten(llama: LoadedModel) -> None:
    """It lets the engine come as far ahead as it may, again and again, and goes on each time."""
    tried = bench(llama, KvStore(2048))
    seen = 0
    async with asyncio.timeout(60):
        async for _ in tried.engine.answer(tried.sequence([5, 6], 400)):
            seen += 1
            if seen % (MAX_LEAD_DELTAS // 2) == 0:
                await tried.ids(tried.sequence([7, seen % 200], 80))
    assert seen > 6 * MAX_LEAD_DELTAS // 2
    await tried.engine.close()


class Stingy(KvStore):
    """Memory that was counted but is not there: nothing ever grows."""

    def grow(self, kv: Any, tokens: int) -> bool:
        return False


async def test_an_answer_that_cannot_grow_where_it_is_goes_on_elsewhere(llama: LoadedModel) -> None:
    """It gives its memory up, gets some anew, and its tokens are the same."""
    rich, poor = bench(llama, KvStore(512)), bench(llama, Stingy(512))
    expected = await rich.ids(rich.sequence([5, 6], 300))
    assert await poor.ids(poor.sequence([5, 6], 300)) == expected
    assert poor.engine.counts.preemptions > 0
    await rich.engine.close()
    await poor.engine.close()


class Panic(BaseException):
    """As a panic of a Rust library comes to Python."""


class Panicking(Scheduler):
    """Panics in one plan."""

    panics = 1

    def plan(self) -> list[Any]:
        if self._running and self.panics:
            self.panics -= 1
            raise Panic
        return super().plan()


async def test_a_panic_ends_what_was_running_and_not_the_engine(llama: LoadedModel) -> None:
    store = KvStore(2048)
    scheduler = Panicking(store, SchedulerLimits(), shares_prefixes=True)
    engine = Engine(make_runner(llama.model), scheduler, Turns(), Speedometer(lambda: 0))
    tried = Bench(llama, store, scheduler, engine)
    with pytest.raises(WorkerFailed):
        await tried.ids(tried.sequence([5, 6], 4))
    assert len(await tried.ids(tried.sequence([5, 6], 4))) == 4
    await engine.close()
