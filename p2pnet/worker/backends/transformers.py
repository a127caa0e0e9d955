"""The backend that runs one model with Hugging Face transformers, one sequence at a time, in the order of acceptance.

The model has a thread of its own and tokenizing another, so the event loop waits for neither. Knows nothing of the
network.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import msgspec
import torch

from p2pnet.errors import InvalidRequest, ModelNotFound, P2PNetError, UsageError, WorkerFailed
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    ModelId,
    Sampling,
    TextDelta,
)
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.engine.detokenizer import Detokenizer, invisible_ids
from p2pnet.worker.engine.digest import QUANTIZATION, HashCache
from p2pnet.worker.engine.limits import tokens_to_generate
from p2pnet.worker.engine.loading import LoadedModel, find_folder, load_model
from p2pnet.worker.engine.prompting import encode_prompt
from p2pnet.worker.engine.sequence import PREFILL_CHUNK_TOKENS, Sequence, SequencePlan

MAX_LEAD_DELTAS = 64
"""How far a sequence may be ahead of its reader: enough to ride out a slow network moment, and small. Then it makes
room for the next sequence, and goes on when its reader has caught up."""

Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


class TransformersBackend:
    """Runs one loaded model."""

    def __init__(self, loaded: LoadedModel, name: str, prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS) -> None:
        self._loaded = loaded
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._invisible = invisible_ids(loaded.tokenizer)
        self._card = ModelCard(
            id=name,
            digest=loaded.digest,
            context_length=loaded.context_length,
            quantization=QUANTIZATION,
            dtype=loaded.dtype,
            features=("chat",) if loaded.tokenizer.chat_template else (),
        )
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._tokenize = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    @classmethod
    async def load(
        cls,
        spec: str,
        *,
        served_name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        cache_dir: Path,
        progress: Progress | None = None,
    ) -> TransformersBackend:
        """Load a model and run it once. Raises UsageError, which says what to do.

        `progress` is called in another thread, with the bytes hashed so far and in all.
        """
        name = _check_name(served_name or _default_name(spec))

        def load() -> LoadedModel:
            loaded = load_model(find_folder(spec), device, dtype, HashCache(cache_dir), progress)
            _try_out(loaded)
            return loaded

        return cls(await asyncio.to_thread(load), name)

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return (self._card,)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        """Accepted, TextDelta*, Finished; see Backend.

        The deltas' ids are all sampled tokens but an end token and those of a stop string: a worker that goes on after
        any delta samples these again and ends as this one would. `completion_tokens` counts them.
        """
        self._check_model(request)
        loop = asyncio.get_running_loop()
        prompt_ids = await loop.run_in_executor(
            self._tokenize, encode_prompt, request.prompt, self._loaded.tokenizer, self._loaded.vocabulary_size
        )
        plan = self._plan(request, prompt_ids)
        yield Accepted(len(prompt_ids), self._card.digest)
        context = () if isinstance(request.prompt, ChatPrompt) else prompt_ids
        detokenizer = Detokenizer(self._loaded.tokenizer, self._invisible, context)
        run = _Run(Sequence(self._loaded.model, plan, detokenizer), loop)
        try:
            async with aclosing(run.events(self._compute)) as events:
                async for event in events:
                    yield event
        finally:
            await run.stop()

    async def close(self) -> None:
        """End both threads. The model's memory is freed with the backend."""
        for executor in (self._compute, self._tokenize):
            await asyncio.to_thread(executor.shutdown, wait=True, cancel_futures=True)

    def _check_model(self, request: GenerateRequest) -> None:
        if request.model != self._card.id:
            raise ModelNotFound(f"The model {request.model!r} is not served here.", "model")
        if request.digest not in (None, self._card.digest):
            raise ModelNotFound(f"The model {request.model!r} is served here with another digest.", "model")
        unknown = [token for token in request.stop_token_ids if token >= self._loaded.vocabulary_size]
        if unknown:
            raise InvalidRequest(f"Token id {unknown[0]} is not in the vocabulary.", "stop_token_ids")

    def _plan(self, request: GenerateRequest, prompt_ids: tuple[int, ...]) -> SequencePlan:
        end_token_ids = frozenset() if request.ignore_eos else self._loaded.end_token_ids
        return SequencePlan(
            prompt_ids=prompt_ids,
            max_tokens=tokens_to_generate(len(prompt_ids), request.max_tokens, self._card.context_length),
            sampling=request.sampling,
            end_token_ids=end_token_ids | frozenset(request.stop_token_ids),
            stop=request.stop,
            prefill_chunk_tokens=self._prefill_chunk_tokens,
        )


class _Run:
    """Carries one sequence between the model's thread, which advances it, and the event loop, which reads it."""

    def __init__(self, sequence: Sequence, loop: asyncio.AbstractEventLoop) -> None:
        self._sequence = sequence
        self._loop = loop
        self._inbox: asyncio.Queue[TextDelta | None] = asyncio.Queue()
        """What the thread has sent; None when it has put the sequence down."""
        self._sent = 0
        self._taken = 0
        self._is_stopped = False
        self._failure: Exception | None = None
        self._job: Future[None] | None = None

    async def events(self, compute: ThreadPoolExecutor) -> AsyncGenerator[TextDelta | Finished, None]:
        """Deltas as they are made, then Finished. Raises WorkerFailed."""
        while self._sequence.finish_reason is None:
            self._job = compute.submit(self._advance)
            while (delta := await self._inbox.get()) is not None:
                self._taken += 1
                yield delta
            if self._failure:
                raise _as_worker_failed(self._failure) from self._failure
        yield Finished(self._sequence.finish_reason, self._sequence.usage)

    async def stop(self) -> None:
        """Stop computing, and return when the thread has: after the step it is in, at most."""
        self._is_stopped = True
        if self._job and not self._job.cancel():
            await asyncio.wrap_future(self._job)

    def _advance(self) -> None:
        """In the model's thread: step until the end, a stop, or too far ahead of the reader."""
        try:
            while self._sequence.finish_reason is None and not self._is_stopped and not self._is_far_ahead:
                for delta in self._sequence.step():
                    self._sent += 1
                    self._send(delta)
        except Exception as error:  # the edge of this thread: what fails here fails this request, not the worker
            self._failure = error
        self._send(None)

    @property
    def _is_far_ahead(self) -> bool:
        return self._sent - self._taken >= MAX_LEAD_DELTAS

    def _send(self, delta: TextDelta | None) -> None:
        self._loop.call_soon_threadsafe(self._inbox.put_nowait, delta)


def _as_worker_failed(error: Exception) -> WorkerFailed:
    """What the requester is told. What torch said stays in the worker's own log."""
    if isinstance(error, WorkerFailed):
        return error
    logger.error("generation failed", exc_info=error)
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return WorkerFailed("the worker ran out of memory")
    return WorkerFailed("the model failed while it computed")


def _default_name(spec: str) -> str:
    """A hub id or `tiny` as it is, and of a path the last part."""
    path = Path(spec).expanduser()
    return path.resolve().name if path.is_dir() else spec


def _check_name(name: str) -> str:
    try:
        return msgspec.convert(name, ModelId)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"A model cannot be served as {name!r}.", "Name it with letters, digits and . _ : / @ + - only."
        ) from error


def _try_out(loaded: LoadedModel) -> None:
    """Generate one token: a model is announced only when it has just run."""
    plan = SequencePlan(prompt_ids=(0,), max_tokens=1, sampling=Sampling(temperature=0), end_token_ids=frozenset())
    sequence = Sequence(loaded.model, plan, Detokenizer(loaded.tokenizer, invisible_ids(loaded.tokenizer)))
    try:
        sequence.step()
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, P2PNetError) as error:
        raise UsageError(
            "The model was loaded but does not run.", "Try another --dtype or --device, or another model."
        ) from error
