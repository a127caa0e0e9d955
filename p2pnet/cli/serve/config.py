"""What the flags of `p2pnet serve` come to. They are checked here, before a network is joined or a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2pnet.cli.joining import Joining, joining
from p2pnet.cli.serve.flags import ServeFlags
from p2pnet.cli.serve.guarding import guard_config
from p2pnet.cli.settings import (
    address_book_of,
    check_name,
    key_from,
    listen_addresses,
    parse_bytes,
)
from p2pnet.config import VOLUNTEERS_RELAY, GuardConfig, ModelConfig, NetworkConfig, WorkerConfig
from p2pnet.errors import UsageError
from p2pnet.network.multiaddrs import check_listen_address
from p2pnet.worker.backends.synthetic.script_file import ScriptedModel, read_scripts
from p2pnet.worker.backends.upstream.address import Kind, parse_address
from p2pnet.worker.checkpoints.gguf_files import check_gguf_flags, means_gguf
from p2pnet.worker.checkpoints.names import local_folder, name_of
from p2pnet.worker.checkpoints.quantization import WantedQuantization
from p2pnet.worker.owner.schedule import Schedule


@dataclass(frozen=True)
class ServeConfig:
    """What one process serves, to whom and when."""

    served: str
    """What that is, in its owner's words."""
    models: tuple[str, ...]
    model: ModelConfig
    upstreams: tuple[str, ...]
    upstream_kind: Kind | None
    upstream_key: str | None
    upstream_names: Mapping[str, str]
    """What models of the servers are announced as, by what the servers call them."""
    upstream_readers: frozenset[str]
    """Models of the servers that read images, by the same names, beside those of which the servers say so."""
    scripts: tuple[ScriptedModel, ...]
    worker: WorkerConfig
    schedule: Schedule | None
    pause_when_busy_percent: float | None
    identity: Path | None
    """None is the first free one of the data folder."""
    listen: tuple[str, ...]
    announce: tuple[str, ...]
    joining: Joining
    is_behind_nat: bool | None
    relays_for_others: bool
    metrics_host: str
    metrics_port: int | None
    ready_file: Path | None
    has_panel: bool
    layers: tuple[int, int] | Literal["auto"] | None = None
    """Which layers of the one model are served, as a stage of chains: "auto" are those that the network lacks; None is
    whole models."""
    drives: bool = False
    """Whether the layers of the one model lie at stages elsewhere."""
    draft: str | None = None
    """The small model that makes drafts for it, if any."""

    def network(self, identity_file: Path) -> NetworkConfig:
        return NetworkConfig(
            identity_file=identity_file,
            address_book=address_book_of(identity_file),
            listen=self.listen,
            announce=self.announce,
            initial_peers=self.joining.initial_peers,
            is_behind_nat=self.is_behind_nat,
            relays_for_others=self.relays_for_others,
            relay=VOLUNTEERS_RELAY,
        )


def config_of(flags: ServeFlags, drives: bool = False, draft: str | None = None) -> ServeConfig:
    """Opens nothing but the scripts and the bootstrap file, and asks pages and domains that are named to join through.
    Raises UsageError."""
    _check_combination(flags)
    layers = None if flags.layers is None else layers_of(flags)
    if flags.memory is not None and layers != "auto":
        raise UsageError("--memory is for --layers auto.", "Leave it out; --kv-memory bounds keys and values.")
    if drives and means_gguf(flags.model[0]):
        raise UsageError("The layers of a GGUF file are not served by stages.", "Give a folder in Hugging Face format.")
    if draft is not None:
        _check_draft(draft)
    names = _served_names(flags)
    _check_names(flags, names)
    return ServeConfig(
        served=_served(flags, layers),
        models=tuple(flags.model),
        model=_model_config(flags, names),
        upstreams=tuple(flags.upstream),
        upstream_kind=flags.upstream_kind,
        upstream_key=key_from(flags.upstream_key_env, "--upstream-key-env", "server"),
        upstream_names={old: new for old, new in names.items() if old not in flags.model},
        upstream_readers=frozenset(flags.upstream_images),
        scripts=tuple(scripted for path in flags.script for scripted in read_scripts(path)),
        worker=WorkerConfig(flags.max_concurrency, flags.drain_seconds, _guard_config(flags), flags.name),
        schedule=None if flags.schedule is None else Schedule.parse(flags.schedule),
        pause_when_busy_percent=flags.pause_when_busy,
        identity=flags.identity,
        listen=listen_addresses(flags.listen),
        announce=tuple(map(check_listen_address, flags.announce)),
        joining=joining(flags.initial_peers, flags.swarm, flags.invite),
        is_behind_nat=True if flags.behind_nat else False if flags.public else None,
        relays_for_others=not flags.no_relay,
        metrics_host=flags.metrics_host,
        metrics_port=flags.metrics_port,
        ready_file=flags.ready_file,
        has_panel=not (flags.no_panel or flags.log_json),
        layers=layers,
        drives=drives,
        draft=draft,
    )


def _check_draft(draft: str) -> None:
    """Raises UsageError for what cannot make drafts."""
    if means_gguf(draft):
        raise UsageError("A GGUF file makes no drafts.", "Give --draft a folder in Hugging Face format.")
    local_folder(draft)


def layers_of(flags: ServeFlags) -> tuple[int, int] | Literal["auto"]:
    """The layers that --layers names. Raises UsageError, also for what cannot be served in part."""
    first, separator, last = str(flags.layers).partition(":")
    is_auto = flags.layers == "auto"
    if is_auto and flags.memory is None:
        raise UsageError(
            "--layers auto does not know how much it may take.", "Add --memory, such as --memory 6GB for six gigabytes."
        )
    if not is_auto and not (separator and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise UsageError(
            f"--layers {flags.layers} names no layers.",
            "Write it as FIRST:LAST, such as 0:12 for the first twelve, or as auto.",
        )
    if len(flags.model) != 1 or flags.upstream or flags.script:
        raise UsageError("--layers is for one --model and nothing else.", "Serve the rest from another worker.")
    if means_gguf(flags.model[0]) or flags.quantization is not WantedQuantization.none:
        raise UsageError(
            "Layers of GGUF files and of quantized models are not served by themselves.",
            "Give a folder in Hugging Face format, and leave --quantization out.",
        )
    if flags.served_name or flags.idle_unload_seconds is not None:
        raise UsageError(
            "A stage has no name for its model, and keeps its layers in memory.",
            "Leave --served-name and --idle-unload-seconds out; `p2pnet drive` names the model.",
        )
    return "auto" if is_auto else (int(first), int(last))


def _served(flags: ServeFlags, layers: tuple[int, int] | Literal["auto"] | None) -> str:
    if layers == "auto":
        return f"those layers of {flags.model[0]} that others lack"
    if layers is not None:
        return f"layers {layers[0]} to {layers[1]} of {flags.model[0]}"
    return ", ".join([*flags.model, *flags.upstream, *map(str, flags.script)])


def _check_combination(flags: ServeFlags) -> None:
    """Raises UsageError for flags that make no sense together, or without others."""
    if not flags.model and not flags.upstream and not flags.script:
        raise UsageError(
            "There is nothing to serve.", "Name a model with --model (tiny is bundled), or a server with --upstream."
        )
    if flags.behind_nat and flags.public:
        raise UsageError("--behind-nat and --public contradict one another.", "Leave both out: it is found out.")
    if flags.idle_unload_seconds is not None and not flags.model:
        raise UsageError(
            "--idle-unload-seconds is for models that this worker loads itself.",
            "Leave it out; the --upstream server has a setting of its own.",
        )
    if not flags.upstream and (flags.upstream_kind or flags.upstream_key_env or flags.upstream_images):
        raise UsageError("No upstream server was named.", "Name it with --upstream.")
    if flags.upstream and flags.pause_when_busy is not None:
        raise UsageError(
            "--pause-when-busy cannot tell what an --upstream server computes for this worker from the owner's work.",
            "Leave it out; --schedule and SIGUSR1 pause such a worker.",
        )


def _served_names(flags: ServeFlags) -> dict[str, str]:
    """What is served under which name, by what it is called here. Raises UsageError."""
    names: dict[str, str] = {}
    for given in flags.served_name:
        old, _, new = given.rpartition("=")
        if not new or (not old and len(flags.model) != 1):
            raise UsageError(
                f"--served-name {given} is the name of one --model, and does not say of which.",
                "Leave it out, or write --served-name OLD=NEW, with OLD as --model or the --upstream server has it.",
            )
        old = old or flags.model[0]
        if old in names:
            raise UsageError(f"--served-name gives {old} two names.", "Leave one of them out.")
        if old not in flags.model and not flags.upstream:
            raise UsageError(
                f"--served-name names {old}, and no --model is called so.",
                "Write it as --model has it, or leave it out.",
            )
        names[old] = name_of(old, new)
    return names


def _check_names(flags: ServeFlags, names: Mapping[str, str]) -> None:
    """Raises UsageError for what cannot be the name of a worker, a model or a server."""
    check_name(flags.name)
    for model in flags.model:
        if means_gguf(model):
            check_gguf_flags(model, flags.dtype, flags.quantization)
        else:
            local_folder(model)
        name_of(model, names.get(model))
    for url in flags.upstream:
        parse_address(url)


def _model_config(flags: ServeFlags, names: Mapping[str, str]) -> ModelConfig:
    return ModelConfig(
        {model: names[model] for model in flags.model if model in names},
        flags.device,
        flags.dtype,
        flags.quantization,
        kv_bytes=None if flags.kv_memory is None else parse_bytes(flags.kv_memory),
        layers_bytes=None if flags.memory is None else parse_bytes(flags.memory),
        context_tokens=flags.context,
        idle_unload_s=flags.idle_unload_seconds,
    )


def _guard_config(flags: ServeFlags) -> GuardConfig:
    limits = GuardConfig(
        max_concurrency_per_gateway=flags.max_per_gateway,
        max_requests_per_minute=flags.max_requests_per_minute,
        max_request_s=flags.max_request_seconds,
        has_quota=not flags.no_gateway_quota,
    )
    return guard_config(flags.allow_gateway, flags.block_gateway, flags.max_request_bytes, limits)
