"""Loads layers of a model and serves them as a stage: those that were named, or those that the network lacks."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import torch

from p2pnet.cli.loading import Bar
from p2pnet.cli.settings import data_dir
from p2pnet.config import DirectoryConfig, ModelConfig, WorkerConfig
from p2pnet.display.sizes import size
from p2pnet.errors import UsageError
from p2pnet.peer import Peer, now_ms
from p2pnet.worker.backends.chain import CHAIN_CONTEXT_TOKENS
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import find_folder
from p2pnet.worker.engine.budget import kv_tokens
from p2pnet.worker.engine.reclaim import reclaim_memory
from p2pnet.worker.engine.turns import Turns, in_own_thread
from p2pnet.worker.owner.owner import Owner
from p2pnet.worker.placement.choosing import Span
from p2pnet.worker.placement.placer import Allotment, Placer
from p2pnet.worker.spans.loading import load_span, measure_layers
from p2pnet.worker.spans.running import SpanRunner
from p2pnet.worker.stages.announcing import StageAnnouncer
from p2pnet.worker.stages.stage import Stage, StageModel
from p2pnet.worker.streams.guard import Guard

logger = logging.getLogger(__name__)

CONVERSATIONS = 2
"""Whose keys and values a stage should have room for, when it is decided how many layers fit: with one, each further
driver would have what the other has computed dropped."""


async def start_stage(
    layers: Span,
    model: str,
    config: ModelConfig,
    worker: WorkerConfig,
    peer: Peer,
    owner: Owner,
    announcer: StageAnnouncer | None = None,
) -> Stage:
    """Load layers of a model, serve them and announce them. Raises UsageError."""
    turns = Turns()
    with Bar(model) as bar:
        folder = await in_own_thread(partial(find_folder, model))
        part = await in_own_thread(
            partial(load_span, folder, *layers, config.device, config.dtype, HashCache(data_dir()), bar.show_hashing)
        )
        runner = await turns.take(partial(SpanRunner, part))
    await asyncio.to_thread(reclaim_memory)  # what was needed to load stays with the process otherwise
    context_length = min(part.context_length, config.context_tokens or part.context_length)
    useful_tokens = worker.max_concurrency * min(context_length, CHAIN_CONTEXT_TOKENS)
    device = torch.device(part.model.device).type
    kv_bytes = config.kv_bytes
    if kv_bytes is None and config.layers_bytes is not None:
        kv_bytes = min(config.layers_bytes - part.memory_bytes, useful_tokens * runner.bytes_per_token)
    tokens = kv_tokens(device, runner.bytes_per_token, useful_tokens, kv_bytes)
    ready = StageModel(
        *(runner, part.digest, part.first, part.last, part.layers, part.width, part.dtype, context_length, tokens),
        step_ms=runner.step_ms,
    )
    stage = await Stage.start(
        peer.network,
        peer.identity,
        peer.directory,
        ready,
        now_ms,
        turns,
        DirectoryConfig(max_record_bytes=peer.max_record_bytes),
        Guard(worker.guard).check,
        owner.refusal,
        announcer=announcer,
    )
    logger.info(
        "layers %d to %d of %s are ready: %s, %s, memory for %d tokens",
        *(part.first, part.last, model, size(part.memory_bytes), part.dtype, tokens),
    )
    return stage


async def start_placer(model: str, config: ModelConfig, worker: WorkerConfig, peer: Peer, owner: Owner) -> Placer:
    """Serve layers of a model that others lack, as many as fit, and move when that changes. Raises UsageError."""
    assert config.layers_bytes is not None
    with Bar(model) as bar:
        folder = await in_own_thread(partial(find_folder, model))
        sizes = await in_own_thread(
            partial(measure_layers, folder, config.device, config.dtype, HashCache(data_dir()), bar.show_hashing)
        )
    conversation = min(sizes.context_length, config.context_tokens or CHAIN_CONTEXT_TOKENS, CHAIN_CONTEXT_TOKENS)
    kept_for_kv = config.kv_bytes or 0
    tokens = 0 if config.kv_bytes is not None else CONVERSATIONS * conversation
    length = sizes.fitting(config.layers_bytes - kept_for_kv, tokens)
    if not length:
        needed = sizes.rest_bytes + sizes.layer_bytes + tokens * (sizes.kv_bytes + sizes.state_bytes) + kept_for_kv
        raise UsageError(
            f"Not one layer of {model} fits into {size(config.layers_bytes)}: with keys and values it takes "
            f"{size(needed)}.",
            "Raise --memory, or take a smaller --context or --dtype bfloat16.",
        )
    logger.info("%d of the %d layers of %s fit into %s", length, sizes.layers, model, size(config.layers_bytes))
    directory = DirectoryConfig(max_record_bytes=peer.max_record_bytes)
    placer = Placer(
        peer.identity,
        peer.directory,
        Allotment(sizes.digest, sizes.layers, length, conversation),
        lambda span, announcer: start_stage(span, model, config, worker, peer, owner, announcer),
        StageAnnouncer(peer.network, peer.identity, now_ms, directory),
        now_ms,
        worker.drain_s,
        owner.refusal,
    )
    await placer.start()
    return placer
