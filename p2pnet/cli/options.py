"""The flags that several commands share, each with its environment variable. Their names are a contract."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from p2pnet.worker.checkpoints.quantization import WantedQuantization


def known_models(incomplete: str) -> list[str]:
    """For the shell's completion: what is there without a download."""
    return [model for model in ("tiny",) if model.startswith(incomplete)]


class LogLevel(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    vulkan = "vulkan"


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


InitialPeers = Annotated[
    list[str],
    typer.Option(
        "--initial-peers",
        envvar="P2PNET_INITIAL_PEERS",
        metavar="MADDR",
        help="Join through this peer: any that can be reached, a worker as well as a bootstrap. Or through those "
        "that a web page (https://HOST, which means its /.well-known/p2pnet), a domain (/dnsaddr/HOST) or another "
        "command's ready file (file:///FILE) names. Repeatable. Default: the addresses in bootstrap_peers.txt "
        "(P2PNET_BOOTSTRAP_FILE names another file).",
    ),
]
Swarm = Annotated[
    str | None,
    typer.Option(
        "--swarm",
        envvar="P2PNET_SWARM",
        metavar="NAME",
        help="Take part in this private swarm, and not in the public network: see `p2pnet swarm`.",
    ),
]
Invite = Annotated[
    str | None,
    typer.Option(
        "--invite",
        envvar="P2PNET_INVITE",
        metavar="TEXT",
        help="Join by this invitation, instead of --initial-peers and --swarm: what `p2pnet invite` or `p2pnet swarm "
        "invite` has printed. A swarm's is a secret: others on this machine see flags, and not P2PNET_INVITE.",
    ),
]
Listen = Annotated[
    list[str],
    typer.Option(
        "--listen",
        envvar="P2PNET_LISTEN",
        metavar="MADDR",
        help="Listen here for other peers. Repeatable. Default: all interfaces, IPv4 and IPv6, any free port, TCP and "
        "QUIC.",
    ),
]
Announce = Annotated[
    list[str],
    typer.Option(
        "--announce",
        envvar="P2PNET_ANNOUNCE",
        metavar="MADDR",
        help="Tell others to dial this address instead (a forwarded port, a DNS name). Repeatable.",
    ),
]
IdentityOption = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        envvar="P2PNET_IDENTITY",
        metavar="FILE",
        help="The peer's key file, made when missing. Default: in the user's data folder (P2PNET_DATA_DIR).",
    ),
]
ReadyFile = Annotated[
    Path | None,
    typer.Option(
        "--ready-file",
        envvar="P2PNET_READY_FILE",
        metavar="FILE",
        help="Write a JSON file once it really serves: peer_id, addresses, and its URLs, http and metrics.",
    ),
]
LogLevelOption = Annotated[
    LogLevel, typer.Option("--log-level", envvar="P2PNET_LOG_LEVEL", help="How much to log, on standard error.")
]
LogJson = Annotated[bool, typer.Option("--log-json", envvar="P2PNET_LOG_JSON", help="Log one JSON object a line.")]
DrainSeconds = Annotated[
    float,
    typer.Option(
        "--drain-seconds",
        envvar="P2PNET_DRAIN_SECONDS",
        min=0,
        help="When asked to stop, let running requests finish for this long.",
    ),
]
Json = Annotated[bool, typer.Option("--json", envvar="P2PNET_JSON", help="Print JSON instead of a table.")]
DeviceOption = Annotated[
    Device, typer.Option("--device", envvar="P2PNET_DEVICE", help="Where to compute. vulkan is for GGUF files.")
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        envvar="P2PNET_DTYPE",
        help="Precision of the numbers. auto: float32 on a CPU, the model's own elsewhere.",
    ),
]
QuantizationOption = Annotated[
    WantedQuantization,
    typer.Option(
        "--quantization",
        envvar="P2PNET_QUANTIZATION",
        help="Load the weights in fewer bits: less memory, other answers. Takes the packages of p2pnet's "
        "extra `quantization`, and a CPU or an NVIDIA GPU. A checkpoint that is quantized already is recognised.",
    ),
]
KvMemory = Annotated[
    str | None,
    typer.Option(
        "--kv-memory",
        envvar="P2PNET_KV_MEMORY",
        metavar="SIZE",
        help="Memory for the keys and values of running answers and of prompts that may come again, as 2GiB or "
        "500MB. Default: what is useful, at most half of what is free; on a CPU never more than that.",
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        envvar="P2PNET_CONTEXT",
        metavar="TOKENS",
        min=256,
        help="How long a prompt and its answer may be together. Default: as long as the model allows and memory holds.",
    ),
]
GatewayUrl = Annotated[str, typer.Option("--gateway", envvar="P2PNET_GATEWAY", help="The gateway's base URL.")]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        envvar="P2PNET_API_KEY_ENV",
        metavar="VARIABLE",
        help="The environment variable that holds your key for the gateway.",
    ),
]
