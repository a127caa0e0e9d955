"""Runs the model of one GGUF file with llama.cpp, in our own engine."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path

import numpy as np

from p2pnet.errors import UsageError
from p2pnet.network.interface import Clock
from p2pnet.worker.backends.engine_backend import EngineBackend, EngineOptions
from p2pnet.worker.checkpoints.digest import HashCache, Progress
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.engine.budget import kv_tokens
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.runner import Part, Runner
from p2pnet.worker.gguf.context import MAX_SEQUENCES, Context, ContextFailed, Rows, bytes_per_token
from p2pnet.worker.gguf.loading import load_gguf
from p2pnet.worker.gguf.rows import ACCELERATOR_LIMITS, CPU_LIMITS, measured
from p2pnet.worker.gguf.runner import LlamaRunner, LlamaStore

EAGER_KV_BYTES = 1 << 29
"""What keys and values take where the owner does not say: llama.cpp takes it at once, and not when it is wanted."""

EAGER_KV_TOKENS = 8192
"""Of large models they take more than that, so that a conversation fits."""


TIMED_STEPS = 4
"""The first one also makes llama.cpp's buffers."""


class GgufBackend(EngineBackend):
    """Runs one loaded file. Raises UsageError when it does not run, or there is no memory for its answers."""

    @classmethod
    async def from_file(
        cls,
        path: Path,
        name: str,
        *,
        now_ms: Clock,
        options: EngineOptions | None = None,
        device: str = "auto",
        idle_unload_s: float | None = None,
        cache_dir: Path,
        progress: Progress | None = None,
    ) -> GgufBackend:
        """Load a file, or all parts of one of which `path` is the first, and run it once. Raises UsageError, which says
        what to do. See `TransformersBackend.from_spec`."""
        load = partial(load_gguf, path, device, HashCache(cache_dir))
        return await cls.starting(
            partial(load, progress), load, name, now_ms, options or EngineOptions(), idle_unload_s
        )

    def _prepare(self, loaded: LoadedModel) -> tuple[Runner, KvStore]:
        model, options = loaded.model, self._options
        limits = CPU_LIMITS if model.device.handle is None else ACCELERATOR_LIMITS
        try:
            token_bytes = bytes_per_token(model, options.threads)
            context_length = self._context_length(loaded)
            eager_tokens = max(EAGER_KV_BYTES // token_bytes, min(context_length, EAGER_KV_TOKENS))
            useful_tokens = min(options.slots * context_length, eager_tokens)
            device = "cpu" if model.device.handle is None else "cuda"
            tokens = kv_tokens(device, token_bytes, useful_tokens, options.kv_bytes, model.device.free_bytes)
            cells = tokens + limits.max_rows  # also for rows that are nobody's
            context = Context(model, cells, limits.max_rows, options.threads, MAX_SEQUENCES + 1)
            if limits is CPU_LIMITS:
                limits = measured(limits, _seconds(context, 1), _seconds(context, 2))
            store, runner = LlamaStore(context, tokens), LlamaRunner(context, model.goes_back, limits, MAX_SEQUENCES)
            _try_out(store, runner)
        except ContextFailed as error:
            raise UsageError(
                f"llama.cpp does not run {model.path.name}: {error}.",
                "Allow less memory with --kv-memory, try --device cpu, or use another file.",
            ) from error
        return runner, store


def _seconds(context: Context, answers: int) -> float:
    """How long the next tokens of so many answers take together, the best of a few times. Raises ContextFailed."""
    best = math.inf
    for position in range(TIMED_STEPS):
        rows = Rows.joined(Rows.of([0], position, sequence, logits=1) for sequence in range(answers))
        began_s = time.perf_counter()
        context.compute(rows)
        best = min(best, time.perf_counter() - began_s)
    for sequence in range(answers):
        context.forget(sequence, 0)
    return best


def _try_out(store: LlamaStore, runner: LlamaRunner) -> None:
    """Compute one token: a model is announced only when it has just run. Raises ContextFailed."""
    kv = store.open(1)
    assert kv is not None  # nobody else has any yet
    (logits,) = runner.forward([Part([0], 0, kv)])
    store.close(kv)
    if not np.isfinite(logits.numpy()).all():
        raise ContextFailed("its logits are not numbers")
