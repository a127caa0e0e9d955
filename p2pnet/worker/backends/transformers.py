"""Runs one language model with Hugging Face transformers, in our own engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from p2pnet.errors import UsageError
from p2pnet.network.interface import Clock
from p2pnet.worker.backends.engine_backend import EngineBackend, EngineOptions
from p2pnet.worker.checkpoints.digest import HashCache, Progress
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model
from p2pnet.worker.checkpoints.names import name_of
from p2pnet.worker.engine.budget import kv_tokens
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.runner import NoCache, Runner, kv_bytes_per_token, make_runner
from p2pnet.worker.engine.turns import in_own_thread


class TransformersBackend(EngineBackend):
    """Runs one loaded model. Raises UsageError when the model does not run, or there is no memory for its answers."""

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
        folder = await in_own_thread(partial(find_folder, spec))  # once: the hub may have another version tomorrow
        load = partial(load_model, folder, device, dtype, HashCache(cache_dir), quantization=quantization)
        return await cls.starting(
            partial(load, progress), load, name, now_ms, options or EngineOptions(), idle_unload_s
        )

    def _prepare(self, loaded: LoadedModel) -> tuple[Runner, KvStore]:
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
        useful_tokens = self._options.slots * self._context_length(loaded)
        return runner, KvStore(kv_tokens(device, bytes_per_token, useful_tokens, self._options.kv_bytes))
