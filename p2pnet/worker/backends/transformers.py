"""Runs one language model with Hugging Face transformers, from requests to deltas.

The engine has a thread of its own and tokenizing another, so the event loop waits for neither. What is small stays; the
weights, keys and values may be unloaded while nobody asks. Knows nothing of the network.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import torch

from p2pnet.errors import FeatureMissing, UsageError, WorkerFailed
from p2pnet.flow.interleaving import interleaved
from p2pnet.messages import Accepted, Finished, GenerateRequest, Usage
from p2pnet.network.interface import Clock
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendEvent, BackendLoad
from p2pnet.worker.backends.served import check_generate
from p2pnet.worker.checkpoints.digest import HashCache, Progress
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model
from p2pnet.worker.checkpoints.names import name_of
from p2pnet.worker.engine.budget import kv_tokens
from p2pnet.worker.engine.engine import Counts, Engine
from p2pnet.worker.engine.intake import Intake
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.residence import CallLater, Residence, call_later
from p2pnet.worker.engine.runner import NoCache, Runner, kv_bytes_per_token, make_runner
from p2pnet.worker.engine.sampler import SAMPLER
from p2pnet.worker.engine.scheduler import Scheduler, SchedulerLimits
from p2pnet.worker.engine.sequence import Sequence
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


class TransformersBackend:
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
            context_length=min(loaded.context_length, self._kv_total_tokens),
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
    async def from_spec(
        cls,
        spec: str,
        *,
        now_ms: Clock,
        options: EngineOptions | None = None,
        served_name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quantization: str = "none",
        idle_unload_s: float | None = None,
        cache_dir: Path,
        progress: Progress | None = None,
    ) -> TransformersBackend:
        """Load a model and run it once. Raises UsageError, which says what to do.

        `idle_unload_s` is how long it stays in memory while nobody asks for it, None for ever. `progress` is called in
        another thread, with the bytes hashed so far and in all.
        """
        name = name_of(spec, served_name)
        options = options or EngineOptions()

        def load() -> TransformersBackend:
            folder = find_folder(spec)  # once: the hub may have another version tomorrow
            cache = HashCache(cache_dir)

            def reload() -> LoadedModel:
                return load_model(folder, device, dtype, cache, quantization=quantization)

            idling = None if idle_unload_s is None else Idling(idle_unload_s, reload)
            with options.loading:
                loaded = load_model(folder, device, dtype, cache, progress, quantization=quantization)
                return cls(loaded, name, now_ms, options, idling)

        backend = await in_own_thread(load)
        backend._residence.begin_idling()
        return backend

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
        for delta in echoed:
            yield delta
        async with self._residence.use() as in_memory:
            answers = [in_memory.engine.answer(sequence) for sequence in sequences]
            async with aclosing(interleaved(answers)) as deltas:
                async for delta in deltas:
                    yield delta
            del in_memory, answers, deltas  # or what is unloaded from here on would stay until the end is taken
        yield _finished(sequences)

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

    def _start(self, loaded: LoadedModel, min_kv_tokens: int = 0) -> _InMemory:
        """Raises UsageError when the model does not run, or there is memory for less."""
        runner, tokens = self._options.turns.run(partial(_prepare, loaded, self._options))
        store = KvStore(tokens)
        if store.total_tokens < min_kv_tokens:
            raise UsageError(
                f"There is memory for {store.total_tokens} tokens of context only, and {min_kv_tokens} were announced.",
                "Free memory, or start the worker again.",
            )
        scheduler = Scheduler(store, self._options.limits, runner.is_packed)
        engine = Engine(runner, scheduler, self._options.turns, self._speed)
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


def _prepare(loaded: LoadedModel, options: EngineOptions) -> tuple[Runner, int]:
    """Makes the runner, runs it once, and says for how many tokens there is memory."""
    try:
        runner = make_runner(loaded.model)
        bytes_per_token = kv_bytes_per_token(runner, loaded.model)
    except NoCache as error:
        raise UsageError(
            "The model has no key-value cache: each token would cost as much as the whole text before it.",
            "Use a transformer with attention.",
        ) from error
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise UsageError(
            "The model was loaded but does not run.", "Try another --dtype or --device, or another model."
        ) from error
    device = torch.device(loaded.model.device).type
    return runner, kv_tokens(device, bytes_per_token, options.slots * loaded.context_length, options.kv_bytes)


def _finished(sequences: list[Sequence]) -> Finished:
    """The end of all answers. The prompt's tokens count once."""
    usages = [sequence.usage for sequence in sequences]
    usage = Usage(usages[0].prompt_tokens, sum(usage.completion_tokens for usage in usages), usages[0].cached_tokens)
    reasons = [sequence.finish_reason or "stop" for sequence in sequences]
    return Finished(reasons[0], usage, other_reasons=tuple(reasons[1:]), stop=sequences[0].stop)


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(*(mine + its for mine, its in zip(astuple(one), astuple(other), strict=True)))
