"""`p2pnet serve`: lend this machine. Loads models and runs a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from importlib import import_module
from typing import Annotated

import typer

from p2pnet.cli import options


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def serve(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            envvar="P2PNET_MODEL",
            metavar="MODEL",
            help="What to run: tiny (bundled), a folder in Hugging Face format, or a hub id. Repeatable.",
        ),
    ],
    served_name: Annotated[
        str | None,
        typer.Option(
            "--served-name",
            envvar="P2PNET_SERVED_NAME",
            help="What the model is called on the network. Default: the folder's name or the hub id.",
        ),
    ] = None,
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
            help="Requests taken at the same time; further ones are told that this worker is busy.",
        ),
    ] = 8,
    device: Annotated[Device, typer.Option("--device", envvar="P2PNET_DEVICE", help="Where to compute.")] = Device.auto,
    dtype: Annotated[
        Dtype,
        typer.Option(
            "--dtype",
            envvar="P2PNET_DTYPE",
            help="Precision of the numbers. auto: float32 on a CPU, the model's own elsewhere.",
        ),
    ] = Dtype.auto,
    identity: options.IdentityOption = None,
    ready_file: options.ReadyFile = None,
    drain_seconds: options.DrainSeconds = 30.0,
    log_level: options.LogLevelOption = options.LogLevel.info,
    log_json: options.LogJson = False,
) -> None:
    """Lend this machine: run models for others."""
    from p2pnet.cli import logs
    from p2pnet.cli.lifecycle import Ready, run_service
    from p2pnet.cli.settings import IdentityFile, initial_peers_required
    from p2pnet.config import DEFAULT_LISTEN, NetworkConfig, WorkerConfig
    from p2pnet.errors import UsageError
    from p2pnet.multiaddrs import check_listen_address

    logs.configure(log_level, log_json)
    if served_name is not None and len(model) > 1:
        raise UsageError("--served-name names one model, and several were given.", "Leave it out, or run two workers.")
    with IdentityFile.claim(identity, "worker") as identity_file:
        config = NetworkConfig(
            identity_file=identity_file,
            listen=tuple(map(check_listen_address, listen)) or DEFAULT_LISTEN,
            announce=tuple(map(check_listen_address, announce)),
            initial_peers=initial_peers_required(initial_peers),
            is_behind_nat=behind_nat,
        )
        worker_config = WorkerConfig(max_concurrency, drain_seconds)

        @asynccontextmanager
        async def service() -> AsyncIterator[Ready]:
            from p2pnet.peer import Peer, now_ms
            from p2pnet.worker.serve import Worker

            peer = await Peer.join(config)  # first: a wrong address is known at once, not after the model is loaded
            try:
                loading = await asyncio.to_thread(import_module, "p2pnet.cli.loading")  # transformers: 2 s
                backends = await loading.load_backends(model, served_name, device, dtype)
                worker = await Worker.start(peer.network, peer.identity, backends, now_ms, worker_config)
                try:
                    yield Ready(peer.identity.peer_id, await peer.join_addresses())
                finally:
                    await worker.stop()
            finally:
                await peer.close()

        run_service(service, ready_file, f"The worker is ready: it serves {', '.join(model)}.")
