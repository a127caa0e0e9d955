"""The flags of `p2pnet serve`, each with its environment variable, in the order of the help. Checks nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from p2pnet.cli import options
from p2pnet.worker.backends.upstream.address import Kind
from p2pnet.worker.checkpoints.quantization import WantedQuantization


@dataclass(frozen=True)
class ServeFlags:
    """What one worker is asked to be."""

    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            envvar="P2PNET_MODEL",
            metavar="MODEL",
            help="What to run: tiny (bundled), a folder in Hugging Face format, a hub id, a GGUF file, or hub-id:FILE "
            "for one on the hub. Repeatable.",
            autocompletion=options.known_models,
        ),
    ] = field(default_factory=list)
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            envvar="P2PNET_LAYERS",
            metavar="FIRST:LAST",
            help="Run these layers of the one --model only, as a stage for `p2pnet drive`: 0:12 are the first twelve. "
            "Only they are loaded. `auto` takes as many as fit into --memory, where the network lacks them most, and "
            "others when that changes. See docs/chains.md. Default: the whole model.",
        ),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            envvar="P2PNET_MEMORY",
            metavar="SIZE",
            help="For --layers auto: what the layers may take with their keys and values, as 6GB. The process takes "
            "some 500 MB besides.",
        ),
    ] = None
    served_name: Annotated[
        list[str],
        typer.Option(
            "--served-name",
            envvar="P2PNET_SERVED_NAME",
            metavar="[OLD=]NEW",
            help="What the one --model is called on the network, or with OLD= a certain one, or one of the --upstream "
            "server. Default: the folder's name, the hub id, or what the server calls it. Repeatable.",
        ),
    ] = field(default_factory=list)
    name: Annotated[
        str,
        typer.Option(
            "--name",
            envvar="P2PNET_NAME",
            help="What you call this machine, for people who look at the network: anna-laptop. Everybody can read it, "
            "and gateways' pages name it with what it gave. Default: none.",
        ),
    ] = ""
    upstream: Annotated[
        list[str],
        typer.Option(
            "--upstream",
            envvar="P2PNET_UPSTREAM",
            metavar="URL",
            help="Serve what this server already runs: Ollama, vLLM, llama.cpp, LM Studio, SGLang, TEI or any other "
            "with OpenAI's API. Its models are announced as they come and go. Repeatable.",
        ),
    ] = field(default_factory=list)
    upstream_kind: Annotated[
        Kind | None,
        typer.Option(
            "--upstream-kind",
            envvar="P2PNET_UPSTREAM_KIND",
            help="How the upstream servers are spoken to. Default: found out.",
        ),
    ] = None
    upstream_key_env: Annotated[
        str | None,
        typer.Option(
            "--upstream-key-env",
            envvar="P2PNET_UPSTREAM_KEY_ENV",
            metavar="VARIABLE",
            help="The environment variable that holds the upstream servers' API key.",
        ),
    ] = None
    upstream_images: Annotated[
        list[str],
        typer.Option(
            "--upstream-images",
            envvar="P2PNET_UPSTREAM_IMAGES",
            metavar="MODEL",
            help="A model of an --upstream server that reads images, as the server calls it. Ollama, llama.cpp and LM "
            "Studio say so themselves; vLLM, SGLang and others do not. Repeatable.",
        ),
    ] = field(default_factory=list)
    script: Annotated[
        list[Path],
        typer.Option(
            "--script",
            envvar="P2PNET_SCRIPT",
            metavar="FILE",
            help="Serve models that answer as this file says, without weights: for testing clients (see "
            "docs/clients.md). Repeatable.",
        ),
    ] = field(default_factory=list)
    initial_peers: options.InitialPeers = field(default_factory=list)
    swarm: options.Swarm = None
    invite: options.Invite = None
    listen: options.Listen = field(default_factory=list)
    announce: options.Announce = field(default_factory=list)
    behind_nat: Annotated[
        bool,
        typer.Option(
            "--behind-nat",
            envvar="P2PNET_BEHIND_NAT",
            help="Nobody can dial this machine: serve through relays. Without this and --public it is found out by "
            "asking other peers to dial back.",
        ),
    ] = False
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            envvar="P2PNET_PUBLIC",
            help="Others can dial this machine: ask nobody whether they can, and take no relay.",
        ),
    ] = False
    no_relay: Annotated[
        bool,
        typer.Option(
            "--no-relay",
            envvar="P2PNET_NO_RELAY",
            help="Do not relay for peers behind NAT, also where others can dial this machine.",
        ),
    ] = False
    max_concurrency: Annotated[
        int,
        typer.Option(
            "--max-concurrency",
            envvar="P2PNET_MAX_CONCURRENCY",
            min=1,
            help="Requests taken at the same time for each model; further ones are told that this worker is busy.",
        ),
    ] = 8
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
    ] = None
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
    ] = None
    device: options.DeviceOption = options.Device.auto
    dtype: options.DtypeOption = options.Dtype.auto
    quantization: options.QuantizationOption = WantedQuantization.none
    kv_memory: options.KvMemory = None
    context: options.Context = None
    idle_unload_seconds: Annotated[
        int | None,
        typer.Option(
            "--idle-unload-seconds",
            envvar="P2PNET_IDLE_UNLOAD_SECONDS",
            min=1,
            help="Unload a model that generates when nobody has asked for it in this time; the next request waits "
            "until it is loaded again. Models that embed stay. Default: never.",
        ),
    ] = None
    allow_gateway: Annotated[
        list[str],
        typer.Option(
            "--allow-gateway",
            envvar="P2PNET_ALLOW_GATEWAY",
            metavar="PEER_ID",
            help="Serve this gateway, and no other that is not named so. Repeatable. Default: all are served.",
        ),
    ] = field(default_factory=list)
    block_gateway: Annotated[
        list[str],
        typer.Option(
            "--block-gateway",
            envvar="P2PNET_BLOCK_GATEWAY",
            metavar="PEER_ID",
            help="Never serve this gateway. A new peer id costs nothing, so this keeps out a careless gateway; against "
            "a determined one there is --allow-gateway. Repeatable.",
        ),
    ] = field(default_factory=list)
    max_per_gateway: Annotated[
        int | None,
        typer.Option(
            "--max-per-gateway",
            envvar="P2PNET_MAX_PER_GATEWAY",
            min=1,
            help="Requests that one gateway may have here at the same time, over all models. Default: all slots; when "
            "several gateways want them, each gets its share.",
        ),
    ] = None
    max_requests_per_minute: Annotated[
        int | None,
        typer.Option(
            "--max-requests-per-minute",
            envvar="P2PNET_MAX_REQUESTS_PER_MINUTE",
            min=1,
            help="Requests served to one gateway in a minute, of which those of ten seconds may come at once. Default: "
            "no such limit.",
        ),
    ] = None
    max_request_bytes: Annotated[
        str | None,
        typer.Option(
            "--max-request-bytes",
            envvar="P2PNET_MAX_REQUEST_BYTES",
            metavar="SIZE",
            help="Take no larger request, as 500kB or 1MiB. Default: the protocol's limit, 4MiB.",
        ),
    ] = None
    max_request_seconds: Annotated[
        float,
        typer.Option(
            "--max-request-seconds",
            envvar="P2PNET_MAX_REQUEST_SECONDS",
            min=1,
            help="Give one request no more time than this; the gateway has the rest of the answer made elsewhere, or "
            "asks here again.",
        ),
    ] = 3600.0
    no_gateway_quota: Annotated[
        bool,
        typer.Option(
            "--no-gateway-quota",
            envvar="P2PNET_NO_GATEWAY_QUOTA",
            help="First come, first served: one gateway may take all slots while others want some.",
        ),
    ] = False
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            envvar="P2PNET_METRICS_PORT",
            min=0,
            max=65535,
            help="Serve metrics for Prometheus at /metrics on this port; 0 is any free one. Default: none are served.",
        ),
    ] = None
    metrics_host: Annotated[
        str,
        typer.Option(
            "--metrics-host",
            envvar="P2PNET_METRICS_HOST",
            metavar="ADDRESS",
            help="Where the metrics are served. They tell how busy this worker is to whoever can read them.",
        ),
    ] = "127.0.0.1"
    identity: options.IdentityOption = None
    ready_file: options.ReadyFile = None
    drain_seconds: options.DrainSeconds = 30.0
    log_level: options.LogLevelOption = options.LogLevel.info
    log_json: options.LogJson = False
    no_panel: Annotated[
        bool,
        typer.Option(
            "--no-panel",
            envvar="P2PNET_NO_PANEL",
            help="Log lines only, on a terminal too. Elsewhere, and with --log-json, there is no panel anyway.",
        ),
    ] = False


SERVE_GROUPS = {
    "What to lend": (
        "model",
        "layers",
        "memory",
        "served_name",
        "upstream",
        "upstream_kind",
        "upstream_key_env",
        "upstream_images",
        "script",
        "name",
    ),
    "The network": (
        *("initial_peers", "swarm", "invite", "listen", "announce", "behind_nat", "public", "no_relay", "identity"),
    ),
    "When, and how much": ("schedule", "pause_when_busy", "max_concurrency", "idle_unload_seconds"),
    "How it is computed": ("device", "dtype", "quantization", "kv_memory", "context"),
    "Who is served": (
        *("allow_gateway", "block_gateway", "max_per_gateway", "max_requests_per_minute", "max_request_bytes"),
        *("max_request_seconds", "no_gateway_quota"),
    ),
    "Watching and stopping it": (
        *("metrics_port", "metrics_host", "ready_file", "drain_seconds", "log_level", "log_json", "no_panel"),
    ),
}
"""What each flag is for, as the help shows them."""
