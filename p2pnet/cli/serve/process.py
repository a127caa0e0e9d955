"""The process of one worker: joins the network, opens what is served, and ends all of it in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module

from p2pnet.cli.given import GIVEN_FILE
from p2pnet.cli.lifecycle import Ready, run_service
from p2pnet.cli.serve.config import ServeConfig
from p2pnet.cli.serve.metrics import worker_metrics
from p2pnet.cli.serve.panel import Panel
from p2pnet.cli.serve.upstreams import open_upstreams
from p2pnet.cli.settings import IdentityFile, data_dir
from p2pnet.config import DirectoryConfig, NetworkConfig
from p2pnet.flow.background import Background
from p2pnet.peer import Peer, now_ms
from p2pnet.twins import TwinWatch, asked_by_another, check_alone
from p2pnet.worker.backend import Backend, EmbedBackend, RerankBackend
from p2pnet.worker.backends.synthetic.script_file import open_scripts
from p2pnet.worker.gguf.trial import try_out_files
from p2pnet.worker.given.keeper import GivenKeeper
from p2pnet.worker.observability.observer import Observer, Observers
from p2pnet.worker.owner.owner import Owner
from p2pnet.worker.serve import Worker


def run_worker(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises UsageError."""
    try_out_files(config.models, config.model.device)  # before the network is joined
    panel = Panel.on_terminal(config.has_panel)
    owner = Owner(config.schedule, config.pause_when_busy_percent)

    def title() -> str:
        if owner.is_paused:
            return f"The worker is ready to serve {config.served}. It is {owner.state}."
        return f"The worker is ready: it serves {config.served}."

    with IdentityFile.claim(config.identity, "worker", config.joining.folder) as identity_file:
        run_service(
            partial(_serving, config, config.network(identity_file), owner, panel),
            config.ready_file,
            title,
            on_signals={signal.SIGUSR1: owner.toggle},
            console=panel.console,
        )


@asynccontextmanager
async def _serving(config: ServeConfig, network: NetworkConfig, owner: Owner, panel: Panel) -> AsyncIterator[Ready]:
    async with AsyncExitStack() as closing:
        # First: a wrong address is known at once, not after the model is loaded.
        peer = await Peer.join(network, membership=config.joining.membership)
        closing.push_async_callback(peer.close)
        await check_alone(peer.network, now_ms, network.identity_file, asked_by_another)
        measuring = await closing.enter_async_context(worker_metrics(config.metrics_host, config.metrics_port))
        metrics = measuring.metrics
        observer = Observers([panel.tally] if metrics is None else [panel.tally, metrics])
        given = await closing.enter_async_context(GivenKeeper(data_dir() / GIVEN_FILE))
        worker = await _start_worker(config, peer, owner, observer, given)
        await closing.enter_async_context(panel.drawn(peer, worker))  # to the end: it says what is waited for
        closing.push_async_callback(worker.stop)
        if config.layers is not None:
            await _start_stage(config, peer, owner, closing)
        background = Background()
        closing.push_async_callback(background.stop)
        background.keep("looking for twins", TwinWatch(peer.network, now_ms, worker.has_issued).run)
        if metrics is not None:
            metrics.watch(worker.standing)
        yield Ready(peer.identity.peer_id, await peer.join_addresses(), metrics=measuring.url)


async def _start_worker(
    config: ServeConfig, peer: Peer, owner: Owner, observer: Observer, given: GivenKeeper
) -> Worker:
    backends: list[Backend] = []
    embedders: list[EmbedBackend | RerankBackend] = []
    try:
        await _open_backends(config, peer, backends, embedders)
        return await Worker.start(
            peer.network,
            peer.identity,
            backends,
            now_ms,
            config.worker,
            DirectoryConfig(max_record_bytes=peer.max_record_bytes),
            owner=owner,
            embedders=embedders,
            observer=observer,
            keep=given.keep,
        )
    except BaseException:
        opened: list[Backend | EmbedBackend | RerankBackend] = [*backends, *embedders]
        await asyncio.gather(*(backend.close() for backend in opened))
        raise


async def _start_stage(config: ServeConfig, peer: Peer, owner: Owner, closing: AsyncExitStack) -> None:
    """Serve layers of the one model. Raises UsageError."""
    await asyncio.to_thread(import_module, "p2pnet.cli.staging")  # transformers: 2 s
    from p2pnet.cli.staging import start_placer, start_stage

    given = (config.models[0], config.model, config.worker, peer, owner)
    assert config.layers is not None
    stage = await (start_placer(*given) if config.layers == "auto" else start_stage(config.layers, *given))
    closing.push_async_callback(stage.stop, config.worker.drain_s)


async def _open_backends(
    config: ServeConfig, peer: Peer, backends: list[Backend], embedders: list[EmbedBackend | RerankBackend]
) -> None:
    """Add one after the other to the lists, which hold what is open when this fails. Raises UsageError."""
    scripted = open_scripts(config.scripts)
    backends += scripted.backends
    embedders += scripted.embedders
    upstreams = await open_upstreams(
        config.upstreams, config.upstream_kind, config.upstream_key, config.upstream_names, config.upstream_readers
    )
    backends += upstreams
    embedders += [part for upstream in upstreams for part in (upstream.embedder, upstream.reranker)]
    if config.models and config.layers is None:
        await asyncio.to_thread(import_module, "p2pnet.cli.loading")  # transformers: 2 s
        from p2pnet.cli.loading import load_driver, load_models

        if config.drives:
            slots = config.worker.max_concurrency
            backends.append(await load_driver(config.models[0], config.model, slots, peer, config.draft))
            return
        loaded = await load_models(config.models, config.model, config.worker.max_concurrency)
        backends += loaded.backends
        embedders += loaded.embedders
