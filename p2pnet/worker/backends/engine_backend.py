"""Answers requests with our own engine, from requests to deltas, whatever runs the model's forward pass.

The engine has a thread of its own and tokenizing another, so the event loop waits for neither. What is small stays; the
weights, keys and values may be unloaded while nobody asks. Knows nothing of the network, nor of how a model is loaded
and run: its subclasses do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import Self

import msgspec
import torch

from p2pnet.errors import FeatureMissing, UsageError, WorkerFailed
from p2pnet.flow.interleaving import interleaved
from p2pnet.messages import Accepted, Finished, GenerateRequest, Usage
from p2pnet.network.interface import Clock
from p2pnet.records import ModelCard
from p2pnet.score_messages import ScoreRequest
from p2pnet.tokenize_messages import TokenizeRequest
from p2pnet.worker.backend import BackendEvent, BackendLoad, ScoreBackendEvent, TokenizeBackendEvent
from p2pnet.worker.backends.served import check_generate, check_score, check_tokenize
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.engine.engine import Counts, Engine
from p2pnet.worker.engine.intake import Intake
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.residence import CallLater, Residence, call_later
from p2pnet.worker.engine.runner import Runner
from p2pnet.worker.engine.sampler import SAMPLER
from p2pnet.worker.engine.scheduler import Scheduler, SchedulerLimits
from p2pnet.worker.engine.sequence import Sequence
from p2pnet.worker.engine.speculation import Speculation
from p2pnet.worker.engine.speed import Speedometer
from p2pnet.worker.engine.turns import Turns, in_own_thread

TAKES_TURNS_CHOICES = 16
"""Answers to one prompt that are taken even where memory does not hold all of them at the same time: some then wait for
the others. With more, everybody else would wait for them, too."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """What a model may take of the machine. `turns` and `loading` are shared by all models of the machine."""

    kv_bytes: int | None = None
    """None is as much as is useful and may be had."""
    slots: int = 8
    """How many whole contexts of memory are useful."""
    context_tokens: int | None = None
    """How long a prompt and its answer may be together, where that is less than the model's own limit."""
    threads: int = field(default_factory=torch.get_num_threads)
    """Of the processor, for what does not run in torch."""
    limits: SchedulerLimits = field(default_factory=SchedulerLimits)
    turns: Turns = field(default_factory=Turns)
    loading: threading.Lock = field(default_factory=threading.Lock)
    """One model is loaded at a time, so that each sees how much memory the others have left."""


@dataclass(frozen=True)
class Idling:
    """After `unload_s` without requests a model is unloaded, and `reload` loads the same one when it is wanted.

    This is not for weights that an embedding backend uses too: they would stay in memory there, and be loaded a second
    time.
    """

    unload_s: float
    reload: Callable[[], LoadedModel]
    call_later: CallLater = call_later


@dataclass(frozen=True, eq=False)
class _InMemory:
    """What is freed when the model is unloaded."""

    engine: Engine
    kv_total_tokens: int
    note_counts: Callable[[Counts], None]

    async def close(self) -> None:
        await self.engine.close()
        self.note_counts(self.engine.counts)


class EngineBackend(ABC):
    """Runs one loaded model. Raises UsageError when the model does not run, or there is no memory for its answers.

    Without `idling` it stays in memory until the backend is closed.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        name: str,
        now_ms: Clock,
        options: EngineOptions | None = None,
        idling: Idling | None = None,
    ) -> None:
        self._options = options or EngineOptions()
        self._idling = idling
        self._speed = Speedometer(now_ms)
        self._counts = Counts()
        """Of what was in memory before."""
        self._intake = Intake(loaded)
        in_memory = self._start(loaded)
        self._kv_total_tokens = in_memory.kv_total_tokens
        self._card = ModelCard(
            id=name,
            digest=loaded.digest,
            context_length=min(self._context_length(loaded), self._kv_total_tokens),
            quantization=loaded.quantization,
            dtype=loaded.dtype,
            features=self._intake.features,
            sampler=SAMPLER,
        )
        self._residence = Residence(
            name,
            in_memory,
            self._load_again,
            None if idling is None else idling.unload_s,
            call_later if idling is None else idling.call_later,
        )
        self._tokenize = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    @classmethod
    async def starting(
        cls,
        load: Callable[[], LoadedModel],
        reload: Callable[[], LoadedModel],
        name: str,
        now_ms: Clock,
        options: EngineOptions,
        idle_unload_s: float | None,
    ) -> Self:
        """Load a model and run it once, in a thread. Raises UsageError, which says what to do.

        `idle_unload_s` is how long it stays in memory while nobody asks for it, None for ever; `reload` loads it again.
        """
        idling = None if idle_unload_s is None else Idling(idle_unload_s, reload)
        backend = await in_own_thread(partial(cls._loaded, load, name, now_ms, options, idling))
        backend._residence.begin_idling()
        return backend

    @classmethod
    def _loaded(
        cls, load: Callable[[], LoadedModel], name: str, now_ms: Clock, options: EngineOptions, idling: Idling | None
    ) -> Self:
        with options.loading:
            return cls(load(), name, now_ms, options, idling)

    @abstractmethod
    def _prepare(self, loaded: LoadedModel) -> tuple[Runner, KvStore]:
        """Make the model's runner, run it once, and make the memory for its answers. Called in a turn. Raises
        UsageError."""

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """The model, marked cold while it is unloaded. No model for a while after it could not be loaded again."""
        if self._residence.has_just_failed:
            return ()
        is_cold = self._residence.resident is None
        return (msgspec.structs.replace(self._card, is_cold=True) if is_cold else self._card,)

    @property
    def load(self) -> BackendLoad:
        """While the model is unloaded all of its memory for keys and values is free, and speeds stay as measured."""
        resident = self._residence.resident
        return BackendLoad(
            kv_free_tokens=self._kv_total_tokens if resident is None else resident.engine.free_tokens,
            kv_total_tokens=self._kv_total_tokens,
            decode_tokens_per_s=self._speed.decode_tokens_per_s,
            prefill_tokens_per_s=self._speed.prefill_tokens_per_s,
        )

    @property
    def counts(self) -> Counts:
        """What the engine has done so far, prefix hits included."""
        resident = self._residence.resident
        return self._counts if resident is None else _sum(self._counts, resident.engine.counts)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """Yields Accepted, TextDelta*, Finished; see Backend.

        The deltas' ids are all sampled tokens except an end token and those of a stop string. A worker that goes on
        after any delta samples the same tokens and ends as this one would. `completion_tokens` counts all of them.
        """
        check_generate(request, self._card)
        self._intake.check(request)
        loop = asyncio.get_running_loop()
        sequences, echoed = await loop.run_in_executor(
            self._tokenize, self._intake.sequences, request, self._card.context_length
        )
        self._check_room(sequences)
        begins_thinking = self._intake.begins_thinking(request, sequences[0])
        prompt_tokens = sequences[0].usage.prompt_tokens
        yield Accepted(prompt_tokens, self._card.digest, begins_thinking=begins_thinking, sampler=SAMPLER)
        for echo in echoed:
            yield echo
        async with self._residence.use() as in_memory:
            answers = [in_memory.engine.answer(sequence) for sequence in sequences]
            async with aclosing(interleaved(answers)) as deltas:
                async for delta in deltas:
                    yield delta
            del in_memory, answers, deltas  # or what is unloaded from here on would stay until the end is taken
        yield _finished(sequences)

    async def score(self, asked: ScoreRequest) -> AsyncGenerator[ScoreBackendEvent, None]:
        """Yields Accepted, Scored until each token has its margin, Finished; see ScoreBackend.

        It is one pass over prompt and answer, in the background of what is generated.
        """
        check_score(asked, self._card)
        self._intake.check_score(asked)
        loop = asyncio.get_running_loop()
        replay = await loop.run_in_executor(self._tokenize, self._intake.replay, asked, self._card.context_length)
        yield Accepted(replay.usage.prompt_tokens, self._card.digest, sampler=SAMPLER)
        async with self._residence.use() as in_memory:
            async with aclosing(in_memory.engine.answer(replay)) as events:
                async for event in events:
                    yield event
            del in_memory, events
        yield Finished("stop", replay.usage)

    async def tokenize(self, asked: TokenizeRequest) -> AsyncGenerator[TokenizeBackendEvent, None]:
        """Yields Accepted, Tokenized*, Finished; see TokenizeBackend. A model that is unloaded stays so."""
        check_tokenize(asked, self._card)
        loop = asyncio.get_running_loop()
        count, parts = await loop.run_in_executor(self._tokenize, self._intake.tokens, asked, self._card.context_length)
        yield Accepted(count, self._card.digest)
        for part in parts:
            yield part
        yield Finished("stop", Usage(count, 0))

    def _check_room(self, sequences: list[Sequence]) -> None:
        """Raises FeatureMissing for many answers that do not fit into memory side by side."""
        tokens = sum(sequence.job.max_length for sequence in sequences)
        if len(sequences) > TAKES_TURNS_CHOICES and tokens > self._kv_total_tokens:
            raise FeatureMissing(
                f"{len(sequences)} answers may take {tokens} tokens, and this worker has memory for "
                f"{self._kv_total_tokens}: ask for fewer, or for a smaller max_tokens.",
                "n",
            )

    async def close(self) -> None:
        """End both threads and free the model's memory. Waits for a model that is just being loaded."""
        await self._residence.close()
        await asyncio.to_thread(self._tokenize.shutdown, wait=True, cancel_futures=True)

    def _context_length(self, loaded: LoadedModel) -> int:
        return min(loaded.context_length, self._options.context_tokens or loaded.context_length)

    def _speculation(self, runner: Runner) -> Speculation | None:
        """What guesses for a model's answers, if anything does."""
        return None

    def _start(self, loaded: LoadedModel, min_kv_tokens: int = 0) -> _InMemory:
        """Raises UsageError when the model does not run, or there is memory for less."""
        runner, store = self._options.turns.run(partial(self._prepare, loaded))
        if store.total_tokens < min_kv_tokens:
            raise UsageError(
                f"There is memory for {store.total_tokens} tokens of context only, and {min_kv_tokens} were announced.",
                "Free memory, or start the worker again.",
            )
        scheduler = Scheduler(store, self._options.limits, runner.is_packed)
        engine = Engine(runner, scheduler, self._options.turns, self._speed, self._speculation(runner))
        return _InMemory(engine, store.total_tokens, self._note_counts)

    def _load_again(self) -> _InMemory:
        """Load the model again, in a thread. Raises WorkerFailed; the log says what to do."""
        try:
            with self._options.loading:
                return self._start_again()
        except UsageError as error:
            logger.error("%s could not be loaded again. %s %s", self._card.id, error.message, error.fix)
        except Exception:  # the edge of this thread: whatever it was, the worker goes on
            logger.exception("%s could not be loaded again", self._card.id)
        raise WorkerFailed("the model could not be loaded again")

    def _start_again(self) -> _InMemory:
        """Load and start it. What was announced must still be true. Raises UsageError."""
        assert self._idling is not None
        loaded = self._idling.reload()
        if loaded.digest != self._card.digest:
            raise UsageError(
                "Its files have changed.", "Put them back, or start the worker again to serve what is there now."
            )
        in_memory = self._start(loaded, min_kv_tokens=self._card.context_length)
        self._kv_total_tokens = in_memory.kv_total_tokens
        return in_memory

    def _note_counts(self, counts: Counts) -> None:
        self._counts = _sum(self._counts, counts)


def _finished(sequences: list[Sequence]) -> Finished:
    """The end of all answers. The prompt's tokens count once."""
    usages = [sequence.usage for sequence in sequences]
    usage = Usage(usages[0].prompt_tokens, sum(usage.completion_tokens for usage in usages), usages[0].cached_tokens)
    reasons = [sequence.finish_reason or "stop" for sequence in sequences]
    return Finished(reasons[0], usage, other_reasons=tuple(reasons[1:]), stop=sequences[0].stop)


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(*(mine + its for mine, its in zip(astuple(one), astuple(other), strict=True)))
