"""`p2pnet drive`: speak for a model whose layers lie at stages elsewhere. Hands its flags on to a worker's process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from p2pnet.cli import options
from p2pnet.cli.signature import takes


@dataclass(frozen=True)
class DriveFlags:
    """What one driver is asked to be."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            envvar="P2PNET_MODEL",
            metavar="MODEL",
            help="Whose ends to run: tiny (bundled), a folder in Hugging Face format, or a hub id. The stages have "
            "layers of the same files.",
            autocompletion=options.known_models,
        ),
    ]
    served_name: Annotated[
        str | None,
        typer.Option(
            "--served-name",
            envvar="P2PNET_SERVED_NAME",
            metavar="NAME",
            help="What the model is called on the network. Default: the folder's name, or the hub id.",
        ),
    ] = None
    draft: Annotated[
        str | None,
        typer.Option(
            "--draft",
            envvar="P2PNET_DRAFT",
            metavar="MODEL",
            help="A small model with the same tokens, to run here: what it guesses is checked by the large one, "
            "several tokens in one pass. It changes no answer. Default: guesses from prompt and answer alone.",
            autocompletion=options.known_models,
        ),
    ] = None
    name: Annotated[
        str,
        typer.Option("--name", envvar="P2PNET_NAME", help="What you call this machine, as for `p2pnet serve`."),
    ] = ""
    initial_peers: options.InitialPeers = field(default_factory=list)
    swarm: options.Swarm = None
    listen: options.Listen = field(default_factory=list)
    announce: options.Announce = field(default_factory=list)
    max_concurrency: Annotated[
        int,
        typer.Option(
            "--max-concurrency",
            envvar="P2PNET_MAX_CONCURRENCY",
            min=1,
            help="Requests taken at the same time; further ones are told that this worker is busy.",
        ),
    ] = 8
    device: options.DeviceOption = options.Device.auto
    dtype: options.DtypeOption = options.Dtype.auto
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            envvar="P2PNET_CONTEXT",
            metavar="TOKENS",
            min=256,
            help="How long a prompt and its answer may be together: stages that have memory for less are not used. "
            "Default: 8,192, or as long as the model allows.",
        ),
    ] = None
    identity: options.IdentityOption = None
    ready_file: options.ReadyFile = None
    drain_seconds: options.DrainSeconds = 30.0
    log_level: options.LogLevelOption = options.LogLevel.info
    log_json: options.LogJson = False


@takes(DriveFlags)
def drive(flags: DriveFlags) -> None:
    """Answer with a model that is larger than this machine: its layers lie at stages, which others serve with
    `p2pnet serve --layers`. The model is offered while there is a stage for each layer."""
    from p2pnet.cli import logs
    from p2pnet.cli.serve.config import config_of
    from p2pnet.cli.serve.flags import ServeFlags
    from p2pnet.cli.serve.process import run_worker

    logs.configure(flags.log_level, flags.log_json)
    given = vars(flags) | {
        "model": [flags.model],
        "served_name": [] if flags.served_name is None else [flags.served_name],
    }
    draft = given.pop("draft")
    run_worker(config_of(ServeFlags(**given), drives=True, draft=draft))
