"""Loads the models of a worker and shows how far it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from transformers.utils import logging as transformers_logging

from p2pnet.cli.settings import data_dir
from p2pnet.config import ModelConfig
from p2pnet.errors import UsageError
from p2pnet.peer import Peer, now_ms
from p2pnet.records import ModelCard
from p2pnet.worker.backend import Backend, EmbedBackend, RerankBackend
from p2pnet.worker.backends.chain import ChainBackend
from p2pnet.worker.backends.embeddings import EmbeddingsBackend
from p2pnet.worker.backends.engine_backend import EngineBackend, EngineOptions
from p2pnet.worker.backends.gguf import GgufBackend
from p2pnet.worker.backends.reranking import RerankingBackend
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.gguf_files import find_gguf, hub_gguf, means_gguf
from p2pnet.worker.checkpoints.loading import find_folder
from p2pnet.worker.checkpoints.names import name_of
from p2pnet.worker.checkpoints.plan import choose_device
from p2pnet.worker.embedding.cross_encoder import is_cross_encoder
from p2pnet.worker.embedding.encoder import tasks_of
from p2pnet.worker.engine.turns import Turns
from p2pnet.worker.gguf.trial import try_out

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What runs a worker's models."""

    backends: list[EngineBackend]
    embedders: list[EmbeddingsBackend | RerankingBackend]

    async def close(self) -> None:
        backends: list[Backend | EmbedBackend | RerankBackend] = [*self.backends, *self.embedders]
        await asyncio.gather(*(backend.close() for backend in backends))


async def load_models(models: Sequence[str], config: ModelConfig, slots: int) -> Loaded:
    """Load each model for what it can do. All compute in turns, and those that generate have equal parts of the memory
    for keys and values; `slots` is how many requests each takes at the same time. Raises UsageError."""
    files = [model for model in models if means_gguf(model)]
    if len(files) < len(models):
        choose_device(config.device)  # a device that is not there is known before anything is fetched
    folders = {model: await asyncio.to_thread(find_folder, model) for model in models if model not in files}
    tasks = {model: ("generate",) if model in files else tasks_of(folders[model]) for model in models}
    generating = sum("generate" in found for found in tasks.values())
    kv_bytes = None if config.kv_bytes is None else config.kv_bytes // max(1, generating)
    options = EngineOptions(kv_bytes=kv_bytes, slots=slots, context_tokens=config.context_tokens)
    if len(files) == len(models):
        leave_cores_to_llama()
    loaded = Loaded([], [])
    try:
        for model in models:
            if "generate" in tasks[model]:
                loaded.backends.append(await load_generator(model, config, options))
            if "embed" in tasks[model]:
                loaded.embedders.append(await _load_embedder(model, folders[model], config, options.turns))
    except BaseException:
        await loaded.close()
        raise
    return loaded


def leave_cores_to_llama() -> None:
    """Have torch use one thread, in a process whose models are all GGUF files: it samples there, and computes nothing.

    Both libraries bring OpenMP. Of each, the threads wait awake for more to do, and so keep those of the other from it.
    """
    torch.set_num_threads(1)


async def load_generator(model: str, config: ModelConfig, options: EngineOptions) -> EngineBackend:
    """Load a model that generates. Raises UsageError."""
    with Bar(model) as bar:
        backend = await (_load_gguf if means_gguf(model) else _load_folder)(model, config, options, bar)
    _say_ready(model, backend.models)
    return backend


async def load_driver(
    model: str, config: ModelConfig, slots: int, peer: Peer, draft: str | None = None
) -> ChainBackend:
    """Load the ends of a model whose layers lie at stages elsewhere, and the model `draft` that makes drafts for it.
    Raises UsageError."""
    with Bar(model) as bar:
        backend = await ChainBackend.from_spec(
            model,
            peer.network,
            peer.directory,
            now_ms=now_ms,
            options=EngineOptions(slots=slots, context_tokens=config.context_tokens),
            served_name=config.served_names.get(model),
            device=config.device,
            dtype=config.dtype,
            cache_dir=data_dir(),
            progress=bar.show_hashing,
            draft=draft,
        )
    logger.info("%s is ready, but for its layers", model)
    if backend.missing:
        logger.warning("it is not offered yet: %s", backend.missing)
    return backend


async def _load_gguf(model: str, config: ModelConfig, options: EngineOptions, bar: Bar) -> GgufBackend:
    """What lies on this machine was tried before; what has just been fetched was not."""
    path = await asyncio.to_thread(find_gguf, model)
    assert path is not None
    if hub_gguf(model) is not None:
        await asyncio.to_thread(try_out, path, config.device)
    return await GgufBackend.from_file(
        path,
        name_of(model, config.served_names.get(model)),
        now_ms=now_ms,
        options=options,
        device=config.device,
        idle_unload_s=config.idle_unload_s,
        cache_dir=data_dir(),
        progress=bar.show_hashing,
    )


async def _load_folder(model: str, config: ModelConfig, options: EngineOptions, bar: Bar) -> TransformersBackend:
    return await TransformersBackend.from_spec(
        model,
        now_ms=now_ms,
        options=options,
        served_name=config.served_names.get(model),
        device=config.device,
        dtype=config.dtype,
        quantization=config.quantization,
        idle_unload_s=config.idle_unload_s,
        cache_dir=data_dir(),
        progress=bar.show_hashing,
    )


async def _load_embedder(
    model: str, folder: Path, config: ModelConfig, turns: Turns
) -> EmbeddingsBackend | RerankingBackend:
    if config.quantization != "none":
        raise UsageError(
            f"The model {model} embeds or ranks, and such models are not quantized.", "Leave --quantization out."
        )
    with Bar(model) as bar:
        kind = RerankingBackend if is_cross_encoder(folder) else EmbeddingsBackend
        backend: EmbeddingsBackend | RerankingBackend = await kind.from_folder(
            folder,
            name_of(model, config.served_names.get(model)),
            device=config.device,
            dtype=config.dtype,
            cache_dir=data_dir(),
            turns=turns,
            now_ms=now_ms,
            progress=bar.show_hashing,
        )
    _say_ready(model, backend.models)
    return backend


class Bar:
    """How far the loading of one model is, on a terminal."""

    def __init__(self, model: str) -> None:
        transformers_logging.disable_progress_bar()  # two bars on one terminal garble one another
        logger.info("loading %s", model)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
        )
        console = Console(stderr=True)
        self._model = model
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task(f"Loading {model}", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show_hashing(self, done_bytes: int, total_bytes: int) -> None:
        self._progress.update(self._task, description=f"Hashing {self._model}", completed=done_bytes, total=total_bytes)


def _say_ready(model: str, cards: Sequence[ModelCard]) -> None:
    for card in cards:
        kind = card.dtype if card.quantization == "none" else f"{card.quantization}, {card.dtype}"
        verb = "generates" if card.task == "generate" else "embeds"
        logger.info("%s is ready: %s %s (%s, context %d)", model, card.id, verb, kind, card.context_length)
