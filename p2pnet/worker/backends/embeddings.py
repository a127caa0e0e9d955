"""Embeds texts with one model: a backend that batches the inputs of all requests.

The model computes in the machine's turns and tokenizing has a thread of its own, so the event loop waits for neither.
Knows nothing of the network.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import ContextOverflow, InvalidRequest, WorkerFailed
from p2pnet.features import EMBEDDING
from p2pnet.messages import Accepted, Finished, TextPrompt, TokenPrompt, Usage
from p2pnet.network.interface import Clock
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendLoad, EmbedBackendEvent
from p2pnet.worker.backends.served import check_model
from p2pnet.worker.checkpoints.digest import HashCache, Progress
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.embedding.encoder import Encoder, encoder_of, load_encoder
from p2pnet.worker.embedding.pooling import shorten
from p2pnet.worker.embedding.queue import EmbedItem, EmbedJob, EmbedQueue
from p2pnet.worker.engine.turns import Turns, in_own_thread
from p2pnet.worker.speed import StepSpeed

CPU_BATCH_TOKENS = 512
"""Padding included. A CPU is as fast with these as with more, and gives its turn to other models sooner."""

GPU_BATCH_TOKENS = 1 << 14
"""A GPU needs many tokens to be busy, and computes this many in a moment."""

TOKENIZED_AT_ONCE_CHARS = 1 << 16
"""Of texts; then another request's may be tokenized."""

SPEED_SMOOTHING = 0.2
"""Weight of the newest batch in the moving average."""

logger = logging.getLogger(__name__)


class EmbeddingsBackend:
    """Embeds with one loaded encoder."""

    def __init__(
        self, encoder: Encoder, name: str, turns: Turns, now_ms: Clock, max_batch_tokens: int | None = None
    ) -> None:
        """`turns` are those of the machine. With `max_batch_tokens` None, batches are as large as suits the device."""
        on_cpu = encoder.model.device.type == "cpu"
        self._encoder = encoder
        self._turns = turns
        self._max_batch_tokens = max_batch_tokens or (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS)
        self._card = ModelCard(
            id=name,
            digest=encoder.digest,
            context_length=encoder.context_length,
            task="embed",
            quantization=encoder.quantization,
            dtype=encoder.dtype,
            features=EMBEDDING,
        )
        self._queue = EmbedQueue()
        self._inboxes: dict[EmbedJob, asyncio.Queue[Embedding | WorkerFailed]] = {}
        self._computing: asyncio.Task[None] | None = None
        self._speed = StepSpeed(now_ms, 0.0, SPEED_SMOOTHING)
        self._tokenize = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    @classmethod
    async def from_folder(
        cls,
        folder: Path,
        name: str,
        *,
        device: str,
        dtype: str,
        cache_dir: Path,
        turns: Turns,
        now_ms: Clock,
        progress: Progress | None = None,
    ) -> EmbeddingsBackend:
        """Load the encoder in a folder and run it once, to be served as `name`. Raises UsageError.

        `progress` is called in another thread, with the bytes hashed so far and in all.
        """
        encoder = await in_own_thread(partial(load_encoder, folder, device, dtype, HashCache(cache_dir), progress))
        return cls(encoder, name, turns, now_ms)

    @classmethod
    async def from_loaded(
        cls, loaded: LoadedModel, folder: Path, name: str, *, cache_dir: Path, turns: Turns, now_ms: Clock
    ) -> EmbeddingsBackend:
        """Embed with the weights of a language model that was loaded from `folder` and generates. Raises UsageError."""
        encoder = await in_own_thread(partial(encoder_of, loaded, folder, HashCache(cache_dir)))
        return cls(encoder, name, turns, now_ms)

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return (self._card,)

    @property
    def load(self) -> BackendLoad:
        return BackendLoad(prefill_tokens_per_s=self._speed.measure)

    async def embed(self, request: EmbedRequest) -> AsyncGenerator[EmbedBackendEvent, None]:
        """Yields Accepted, Embedding in the order in which they are computed, Finished; see EmbedBackend.

        Texts longer than the model reads are cut, as sentence-transformers does, where the request allows it. Ids that
        are too many are refused.
        """
        self._check(request)
        inputs = await self._encode(request)
        prompt_tokens = sum(map(len, inputs))
        yield Accepted(prompt_tokens, self._card.digest)
        job = EmbedJob(inputs, request.dimensions)
        inbox = self._inboxes[job] = asyncio.Queue()
        self._queue.add(job)
        try:
            for _ in inputs:
                self._go_on()
                found = await inbox.get()
                if isinstance(found, WorkerFailed):
                    raise found
                job.read()
                yield found
            yield Finished("stop", Usage(prompt_tokens, 0))
        finally:
            self._queue.remove(job)
            del self._inboxes[job]

    async def close(self) -> None:
        """End the computing and the tokenizing; what is still wanted fails. The model's memory is freed with the
        backend."""
        if self._computing is not None:
            self._computing.cancel()
            await asyncio.wait([self._computing])
        for inbox in self._inboxes.values():
            inbox.put_nowait(WorkerFailed("the worker is stopping"))
        await asyncio.to_thread(self._tokenize.shutdown, wait=True, cancel_futures=True)

    def _check(self, request: EmbedRequest) -> None:
        check_model(request, self._card)
        if request.dimensions is not None and request.dimensions > self._encoder.dimensions:
            raise InvalidRequest(f"The model's vectors have only {self._encoder.dimensions} dimensions.", "dimensions")

    async def _encode(self, request: EmbedRequest) -> list[tuple[int, ...]]:
        """The ids of every input. Other requests get their turn in between. Raises RequestError."""
        loop = asyncio.get_running_loop()
        inputs: list[tuple[int, ...]] = []
        while len(inputs) < len(request.inputs):
            inputs += await loop.run_in_executor(self._tokenize, self._encode_some, request, len(inputs))
        return inputs

    def _encode_some(self, request: EmbedRequest, start: int) -> list[tuple[int, ...]]:
        """Encode at least one input, and no more than may be done at once. Runs in the tokenizer's thread."""
        inputs: list[tuple[int, ...]] = []
        chars = 0
        for index in range(start, len(request.inputs)):
            prompt = request.inputs[index]
            inputs.append(self._ids(prompt, index, request.truncate))
            chars += len(prompt.text) if isinstance(prompt, TextPrompt) else len(prompt.token_ids)
            if chars >= TOKENIZED_AT_ONCE_CHARS:
                break
        return inputs

    def _ids(self, prompt: TextPrompt | TokenPrompt, index: int, truncate: bool) -> tuple[int, ...]:
        longest = self._card.context_length
        if isinstance(prompt, TextPrompt):
            if prompt.suffix:
                raise InvalidRequest(f"Input {index} has a suffix, which is for texts with a gap.", "input")
            ids = self._encoder.tokenize(prompt.text, longest if truncate else longest + 1)
            if not ids:
                raise InvalidRequest(f"Input {index} is empty.", "input")
            if len(ids) > longest:
                raise _too_long(index, longest, f"more than {longest}")
            return ids
        ids = prompt.token_ids
        if len(ids) > longest:
            raise _too_long(index, longest, str(len(ids)))
        if max(ids) >= self._encoder.vocabulary_size:
            raise InvalidRequest(
                f"Token id {max(ids)} of input {index} is not in the vocabulary of {self._encoder.vocabulary_size}.",
                "input",
            )
        return ids

    def _go_on(self) -> None:
        """See to it that there is a task that computes, as long as there is something to compute."""
        if self._computing is None or self._computing.done():
            self._computing = asyncio.create_task(self._compute_all())

    async def _compute_all(self) -> None:
        while batch := self._queue.next_batch(self._max_batch_tokens):
            try:
                computed = await self._turns.take(partial(self._compute_batch, batch))
            except Exception:  # the edge of this task: whoever waits is told, whatever it was
                logger.exception("a batch of %d inputs is lost", len(batch))
                computed = [(item, WorkerFailed("the model failed while it computed")) for item in batch]
            for item, found in computed:
                if (inbox := self._inboxes.get(item.job)) is not None:
                    inbox.put_nowait(found)

    def _compute_batch(self, batch: Sequence[EmbedItem]) -> list[tuple[EmbedItem, Embedding | WorkerFailed]]:
        """Compute one turn. Inputs that fail together are tried one by one, so that only those fail that are at fault
        or too large."""
        try:
            return self._computed(batch)
        except Exception as error:  # the edge of this thread: a request may fail, the worker goes on
            if len(batch) == 1:
                return [(batch[0], _failure(error))]
            logger.warning("a batch of %d inputs failed; trying each alone", len(batch), exc_info=error)
            return [found for item in batch for found in self._compute_batch([item])]

    def _computed(self, batch: Sequence[EmbedItem]) -> list[tuple[EmbedItem, Embedding | WorkerFailed]]:
        started_s = time.monotonic()
        vectors = self._encoder.embed([item.token_ids for item in batch])
        self._speed.note(sum(len(item.token_ids) for item in batch), time.monotonic() - started_s)
        return [(item, _result(item, vector)) for item, vector in zip(batch, vectors, strict=True)]


def _too_long(index: int, longest: int, has: str) -> ContextOverflow:
    return ContextOverflow(
        f"This model's maximum context length is {longest} tokens, but input {index} has {has}.", "input"
    )


def _result(item: EmbedItem, vector: Tensor) -> Embedding | WorkerFailed:
    if item.job.dimensions is not None:
        vector = shorten(vector, item.job.dimensions)
    if not vector.isfinite().all():
        return WorkerFailed(f"the model gave no numbers for input {item.index}")
    return Embedding(item.index, vector.numpy().astype("<f4").tobytes())


def _failure(error: Exception) -> WorkerFailed:
    """The error that the requester is told. What torch said stays in the worker's own log."""
    logger.error("embedding failed", exc_info=error)
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return WorkerFailed("the worker ran out of memory")
    return WorkerFailed("the model failed while it computed")
