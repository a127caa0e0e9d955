"""`p2pnet serve`: lend this machine. Loads models and runs a worker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from p2pnet.cli import options
from p2pnet.worker.backends.upstream.address import Kind
from p2pnet.worker.checkpoints.quantization import WantedQuantization


def serve(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            envvar="P2PNET_MODEL",
            metavar="MODEL",
            help="What to run: tiny (bundled), a folder in Hugging Face format, or a hub id. Repeatable.",
            autocompletion=options.known_models,
        ),
    ] = [],
    served_name: Annotated[
        str | None,
        typer.Option(
            "--served-name",
            envvar="P2PNET_SERVED_NAME",
            help="What the model is called on the network. Default: the folder's name or the hub id.",
        ),
    ] = None,
    name: options.Name = "",
    upstream: Annotated[
        list[str],
        typer.Option(
            "--upstream",
            envvar="P2PNET_UPSTREAM",
            metavar="URL",
            help="Serve what this server already runs: Ollama, vLLM, llama.cpp, LM Studio, SGLang or any other with "
            "OpenAI's API. Its models are announced as they come and go. Repeatable.",
        ),
    ] = [],
    upstream_kind: Annotated[
        Kind | None,
        typer.Option(
            "--upstream-kind",
            envvar="P2PNET_UPSTREAM_KIND",
            help="How the upstream servers are spoken to. Default: found out.",
        ),
    ] = None,
    upstream_key_env: Annotated[
        str | None,
        typer.Option(
            "--upstream-key-env",
            envvar="P2PNET_UPSTREAM_KEY_ENV",
            metavar="VARIABLE",
            help="The environment variable that holds the upstream servers' API key.",
        ),
    ] = None,
    script: Annotated[
        list[Path],
        typer.Option(
            "--script",
            envvar="P2PNET_SCRIPT",
            metavar="FILE",
            help="Serve models that answer as this file says, without weights: for testing clients (see "
            "docs/clients.md). Repeatable.",
        ),
    ] = [],
    initial_peers: options.InitialPeers = [],
    listen: options.Listen = [],
    announce: options.Announce = [],
    behind_nat: Annotated[
        bool,
        typer.Option(
            "--behind-nat",
            envvar="P2PNET_BEHIND_NAT",
            help="Nobody can dial this machine: serve through the relays among the initial peers.",
        ),
    ] = False,
    max_concurrency: Annotated[
        int,
        typer.Option(
            "--max-concurrency",
            envvar="P2PNET_MAX_CONCURRENCY",
            min=1,
            help="Requests taken at the same time for each model; further ones are told that this worker is busy.",
        ),
    ] = 8,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            envvar="P2PNET_SCHEDULE",
            metavar="HOURS",
            help="When this machine is lent, in local time: 22:00-07:00, or mon-fri 19:00-08:00, sat-sun 00:00-24:00. "
            "Hours over midnight belong to the day on which they begin. Outside of its hours the worker is paused. "
            "Default: always.",
        ),
    ] = None,
    pause_when_busy: Annotated[
        float | None,
        typer.Option(
            "--pause-when-busy",
            envvar="P2PNET_PAUSE_WHEN_BUSY",
            metavar="PERCENT",
            min=1,
            max=100,
            help="Pause while other programs use more than this of all CPU cores, or of the NVIDIA GPU that is lent. "
            "Not with --upstream.",
        ),
    ] = None,
    device: options.DeviceOption = options.Device.auto,
    dtype: options.DtypeOption = options.Dtype.auto,
    quantization: options.QuantizationOption = WantedQuantization.none,
    kv_memory: options.KvMemory = None,
    idle_unload_seconds: Annotated[
        int | None,
        typer.Option(
            "--idle-unload-seconds",
            envvar="P2PNET_IDLE_UNLOAD_SECONDS",
            min=1,
            help="Unload a model that generates when nobody has asked for it in this time; the next request waits "
            "until it is loaded again. Models that embed stay. Default: never.",
        ),
    ] = None,
    allow_gateway: options.AllowGateway = [],
    block_gateway: options.BlockGateway = [],
    max_per_gateway: options.MaxPerGateway = None,
    max_requests_per_minute: options.MaxRequestsPerMinute = None,
    max_request_bytes: options.MaxRequestBytes = None,
    max_request_seconds: options.MaxRequestSeconds = 3600.0,
    no_gateway_quota: options.NoGatewayQuota = False,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = "127.0.0.1",
    identity: options.IdentityOption = None,
    ready_file: options.ReadyFile = None,
    drain_seconds: options.DrainSeconds = 30.0,
    log_level: options.LogLevelOption = options.LogLevel.info,
    log_json: options.LogJson = False,
    no_panel: Annotated[
        bool,
        typer.Option(
            "--no-panel",
            envvar="P2PNET_NO_PANEL",
            help="Log lines only, on a terminal too. Elsewhere, and with --log-json, there is no panel anyway.",
        ),
    ] = False,
) -> None:
    """Lend this machine: run models for others. SIGUSR1 pauses the worker, and resumes it."""
    from p2pnet.cli import logs
    from p2pnet.cli.serve.guarding import guard_config
    from p2pnet.cli.lifecycle import Ready, run_service
    from p2pnet.cli.serve.metrics import worker_metrics
    from p2pnet.cli.serve.panel import Panel
    from p2pnet.cli.settings import IdentityFile, check_name, initial_peers_required, key_from, parse_bytes
    from p2pnet.cli.serve.upstreams import check_urls, open_upstreams
    from p2pnet.config import DEFAULT_LISTEN, GuardConfig, ModelConfig, NetworkConfig, WorkerConfig
    from p2pnet.errors import UsageError
    from p2pnet.network.multiaddrs import check_listen_address
    from p2pnet.worker.backends.synthetic.script_file import open_scripts, read_scripts
    from p2pnet.worker.checkpoints.names import local_folder, name_of
    from p2pnet.worker.owner.owner import Owner
    from p2pnet.worker.owner.schedule import Schedule

    logs.configure(log_level, log_json)
    if not model and not upstream and not script:
        raise UsageError(
            "There is nothing to serve.", "Name a model with --model (tiny is bundled), or a server with --upstream."
        )
    if served_name is not None and len(model) != 1:
        raise UsageError("--served-name is the name of one --model.", "Leave it out, or run a worker for each model.")
    if idle_unload_seconds is not None and not model:
        raise UsageError(
            "--idle-unload-seconds is for models that this worker loads itself.",
            "Leave it out; the --upstream server has a setting of its own.",
        )
    if not upstream and (upstream_kind or upstream_key_env):
        raise UsageError("No upstream server was named.", "Name it with --upstream.")
    if upstream and pause_when_busy is not None:
        raise UsageError(
            "--pause-when-busy cannot tell what an --upstream server computes for this worker from the owner's work.",
            "Leave it out; --schedule and SIGUSR1 pause such a worker.",
        )
    check_name(name)
    for each in model:
        local_folder(each)  # a wrong name is known at once, not after the network has been joined
        name_of(each, served_name)
    check_urls(upstream)
    scripts = [scripted for path in script for scripted in read_scripts(path)]
    upstream_key = key_from(upstream_key_env, "--upstream-key-env", "server")
    limits = GuardConfig(
        max_concurrency_per_gateway=max_per_gateway,
        max_requests_per_minute=max_requests_per_minute,
        max_request_s=max_request_seconds,
        has_quota=not no_gateway_quota,
    )
    panel = Panel.on_terminal(not (no_panel or log_json))
    guard = guard_config(allow_gateway, block_gateway, max_request_bytes, limits)
    owner = Owner(None if schedule is None else Schedule.parse(schedule), pause_when_busy)
    with IdentityFile.claim(identity, "worker") as identity_file:
        config = NetworkConfig(
            identity_file=identity_file,
            listen=tuple(map(check_listen_address, listen)) or DEFAULT_LISTEN,
            announce=tuple(map(check_listen_address, announce)),
            initial_peers=initial_peers_required(initial_peers),
            is_behind_nat=behind_nat,
        )
        worker_config = WorkerConfig(max_concurrency, drain_seconds, guard, name)
        model_config = ModelConfig(
            served_name,
            device,
            dtype,
            quantization,
            kv_bytes=None if kv_memory is None else parse_bytes(kv_memory),
            idle_unload_s=idle_unload_seconds,
        )

        @asynccontextmanager
        async def service() -> AsyncIterator[Ready]:
            from p2pnet.peer import Peer, now_ms
            from p2pnet.worker.backend import Backend, EmbedBackend
            from p2pnet.worker.observability.observer import Observers
            from p2pnet.worker.serve import Worker

            async with AsyncExitStack() as closing:
                peer = await Peer.join(config)  # first: a wrong address is known at once, not after the model is loaded
                closing.push_async_callback(peer.close)
                measuring = await closing.enter_async_context(worker_metrics(metrics_host, metrics_port))
                metrics = measuring.metrics
                scripted = open_scripts(scripts)
                backends: list[Backend] = [*scripted.backends]
                embedders: list[EmbedBackend] = [*scripted.embedders]
                try:
                    backends += await open_upstreams(upstream, upstream_kind, upstream_key)
                    if model:
                        loading = await asyncio.to_thread(import_module, "p2pnet.cli.loading")  # transformers: 2 s
                        loaded = await loading.load_models(model, model_config, max_concurrency)
                        backends += loaded.backends
                        embedders += loaded.embedders
                    worker = await Worker.start(
                        peer.network,
                        peer.identity,
                        backends,
                        now_ms,
                        worker_config,
                        owner=owner,
                        embedders=embedders,
                        observer=Observers([panel.tally] if metrics is None else [panel.tally, metrics]),
                    )
                except BaseException:
                    opened: list[Backend | EmbedBackend] = [*backends, *embedders]
                    await asyncio.gather(*(backend.close() for backend in opened))
                    raise
                await closing.enter_async_context(panel.drawn(peer, worker))  # to the end: it says what is waited for
                closing.push_async_callback(worker.stop)
                if metrics is not None:
                    metrics.watch(worker.standing)
                yield Ready(peer.identity.peer_id, await peer.join_addresses(), metrics=measuring.url)

        def title() -> str:
            models = ", ".join([*model, *upstream, *map(str, script)])
            if owner.is_paused:
                return f"The worker is ready to serve {models}. It is {owner.state}."
            return f"The worker is ready: it serves {models}."

        run_service(service, ready_file, title, on_signals={signal.SIGUSR1: owner.toggle}, console=panel.console)
