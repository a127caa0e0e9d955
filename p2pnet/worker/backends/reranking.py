"""Ranks documents with one cross-encoder, in batches. Knows nothing of the network."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from torch import Tensor

from p2pnet.errors import WorkerFailed
from p2pnet.features import RERANK
from p2pnet.messages import Accepted, Finished, Usage
from p2pnet.network.interface import Clock
from p2pnet.records import ModelCard
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.worker.backend import BackendLoad, RerankBackendEvent
from p2pnet.worker.backends.embeddings import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, SPEED_SMOOTHING
from p2pnet.worker.backends.served import check_model
from p2pnet.worker.checkpoints.digest import HashCache, Progress
from p2pnet.worker.embedding.cross_encoder import CrossEncoder, load_cross_encoder
from p2pnet.worker.engine.turns import Turns, in_own_thread
from p2pnet.worker.speed import StepSpeed

logger = logging.getLogger(__name__)


class RerankingBackend:
    """Ranks with one loaded cross-encoder. The machine's turns go round between its requests, batch by batch."""

    def __init__(
        self, encoder: CrossEncoder, name: str, turns: Turns, now_ms: Clock, max_batch_tokens: int | None = None
    ) -> None:
        on_cpu = encoder.model.device.type == "cpu"
        self._encoder = encoder
        self._turns = turns
        self._max_batch_tokens = max_batch_tokens or (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS)
        self._card = ModelCard(
            id=name,
            digest=encoder.digest,
            context_length=encoder.context_length,
            task="embed",
            dtype=encoder.dtype,
            features=(RERANK,),
        )
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
    ) -> RerankingBackend:
        """Load the cross-encoder in a folder and run it once, to be served as `name`. Raises UsageError."""
        load = partial(load_cross_encoder, folder, device, dtype, HashCache(cache_dir), progress)
        return cls(await in_own_thread(load), name, turns, now_ms)

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return (self._card,)

    @property
    def load(self) -> BackendLoad:
        return BackendLoad(prefill_tokens_per_s=self._speed.measure)

    async def rerank(self, request: RerankRequest) -> AsyncGenerator[RerankBackendEvent, None]:
        """Yields Accepted, Relevance for each document, the longest first, Finished; see RerankBackend."""
        check_model(request, self._card)
        loop = asyncio.get_running_loop()
        pairs = await loop.run_in_executor(self._tokenize, self._encoder.encode, request.query, request.documents)
        lengths = [len(pair["input_ids"]) for pair in pairs]
        yield Accepted(sum(lengths), self._card.digest)
        for batch in batches(lengths, self._max_batch_tokens):
            scores = await self._turns.take(partial(self._scores, [pairs[index] for index in batch]))
            for index, score in zip(batch, scores.tolist(), strict=True):
                yield Relevance(index, score)
        yield Finished("stop", Usage(sum(lengths), 0))

    async def close(self) -> None:
        await asyncio.to_thread(self._tokenize.shutdown, wait=True, cancel_futures=True)

    def _scores(self, pairs: Sequence[dict[str, list[int]]]) -> Tensor:
        """Compute one turn. Raises WorkerFailed."""
        started_s = time.monotonic()
        try:
            scores = self._encoder.score(pairs)
        except Exception as error:  # the edge of this thread: a request may fail, the worker goes on
            logger.exception("a batch of %d documents is lost", len(pairs))
            raise WorkerFailed("the model failed while it computed") from error
        self._speed.note(sum(len(pair["input_ids"]) for pair in pairs), time.monotonic() - started_s)
        if not scores.isfinite().all():
            raise WorkerFailed("the model gave no numbers for a document")
        return scores


def batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """What is computed together, longest first: at most `max_tokens` with the padding, but at least one."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    yield batch
