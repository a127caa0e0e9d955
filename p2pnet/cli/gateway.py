"""`p2pnet gateway`: the network behind OpenAI's API."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnet.cli import options
from p2pnet.cli.signature import takes
from p2pnet.errors import UsageError

if TYPE_CHECKING:
    from gateway.gateway import GatewayConfig
    from p2pnet.cli.lifecycle import Ready
    from p2pnet.config import NetworkConfig
    from p2pnet.identity import Identity
    from p2pnet.swarm.membership import Membership

NEW_OBJECTS = 20_000
"""Objects made and not freed before Python looks for cycles among them, some megabytes. Its own 700 are there several
times a request, when there are many at once: looking took an eighth of a gateway's CPU time."""

HINTS = (
    "See the network and try it in a browser: {http}",
    "Point any OpenAI client at {http}/v1, or ask from a terminal: p2pnet chat --gateway {http}",
)


class AuditChoice(StrEnum):
    """What --audit takes."""

    off = "off"
    own = "own"
    canaries = "canaries"
    all = "all"


@dataclass(frozen=True)
class GatewayFlags:
    """What one gateway is asked to be."""

    host: Annotated[str, typer.Option("--host", envvar="P2PNET_HOST", help="Serve HTTP on this address.")] = "127.0.0.1"
    port: Annotated[
        int, typer.Option("--port", envvar="P2PNET_PORT", min=0, max=65535, help="Serve HTTP here; 0: any free port.")
    ] = 8000
    wait_seconds: Annotated[
        float,
        typer.Option(
            "--wait-seconds",
            envvar="P2PNET_WAIT_SECONDS",
            min=0,
            max=600,
            help="How long a request waits for a worker, at its beginning and when one fails in mid-answer.",
        ),
    ] = 30.0
    max_waiting: Annotated[
        int,
        typer.Option(
            "--max-waiting",
            envvar="P2PNET_MAX_WAITING",
            min=0,
            help="Requests that may wait for one model; one more is told to come back later (429).",
        ),
    ] = 512
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            envvar="P2PNET_API_KEY_FILE",
            metavar="FILE",
            help="Serve only who has a key of this file (see `p2pnet keys`). Without it --host is a loopback address.",
        ),
    ] = None
    vouched_by: Annotated[
        Path | None,
        typer.Option(
            "--vouched-by",
            envvar="P2PNET_VOUCHED_BY",
            metavar="FILE",
            help="The identity file of a worker of yours, which vouches for this gateway: whoever serves it gets "
            "standing where your worker has some. Only for a gateway whose users you trust.",
        ),
    ] = None
    alias: Annotated[
        list[str],
        typer.Option(
            "--alias",
            envvar="P2PNET_ALIAS",
            metavar="NAME=MODEL",
            help="Let clients ask for MODEL under another name, such as gpt-4o-mini. MODEL may be auto. Repeatable.",
        ),
    ] = field(default_factory=list)
    code_model: Annotated[
        str | None,
        typer.Option(
            "--code-model",
            envvar="P2PNET_CODE_MODEL",
            metavar="MODEL",
            help="What editors get that name no model of the network. Default: the first one that is made for code, "
            "else any.",
        ),
    ] = None
    trusted_proxy: Annotated[
        list[str],
        typer.Option(
            "--trusted-proxy",
            envvar="P2PNET_TRUSTED_PROXY",
            metavar="ADDRESS",
            help="Believe the X-Forwarded-For of this proxy, or of all in a network such as 10.0.0.0/8: without keys, "
            "callers share the queues by their addresses. Repeatable. Default: nobody is believed.",
        ),
    ] = field(default_factory=list)
    allowed_host: Annotated[
        list[str],
        typer.Option(
            "--allowed-host",
            envvar="P2PNET_ALLOWED_HOST",
            metavar="NAME",
            help="Without keys, answer under this name too. Repeatable. Default: only under localhost, addresses, and "
            "what containers call their machine, so that no web page can use the gateway by a name of its own.",
        ),
    ] = field(default_factory=list)
    allowed_origin: Annotated[
        list[str],
        typer.Option(
            "--allowed-origin",
            envvar="P2PNET_ALLOWED_ORIGIN",
            metavar="ORIGIN",
            help="Let the pages of another site use the gateway from a browser, such as https://chat.example or "
            "http://localhost:3000. Repeatable. Default: only the gateway's own page.",
        ),
    ] = field(default_factory=list)
    keep_responses: Annotated[
        float,
        typer.Option(
            "--keep-responses",
            envvar="P2PNET_KEEP_RESPONSES",
            metavar="SECONDS",
            min=0,
            help="Keep each answer of /v1/responses, with its conversation, in memory for so long: its caller's next "
            "request may go on from it. 0: keep none.",
        ),
    ] = 3600.0
    audit: Annotated[
        AuditChoice | None,
        typer.Option(
            "--audit",
            envvar="P2PNET_AUDIT",
            help="Whose prompts other workers may see to check answers: nobody's (off), those of clients by trusted "
            "auditors alone (own), made-up ones by anybody (canaries), those of clients by anybody (all). "
            "Default: own with --auditor, else canaries.",
        ),
    ] = None
    auditor: Annotated[
        list[str],
        typer.Option(
            "--auditor",
            envvar="P2PNET_AUDITOR",
            metavar="PEER",
            help="Believe this worker alone when it says that another one's answers do not come from its model: name "
            "your own, by its peer id. Repeatable.",
        ),
    ] = field(default_factory=list)
    initial_peers: options.InitialPeers = field(default_factory=list)
    swarm: options.Swarm = None
    invite: options.Invite = None
    listen: options.Listen = field(default_factory=list)
    identity: options.IdentityOption = None
    ready_file: options.ReadyFile = None
    drain_seconds: options.DrainSeconds = 10.0
    log_level: options.LogLevelOption = options.LogLevel.info
    log_json: options.LogJson = False


GATEWAY_GROUPS = {
    "Where it serves, and whom": (
        *("host", "port", "api_key_file", "trusted_proxy", "allowed_host", "allowed_origin"),
    ),
    "Requests": ("wait_seconds", "max_waiting", "alias", "code_model", "keep_responses"),
    "Strangers": ("audit", "auditor", "vouched_by"),
    "The network": ("initial_peers", "swarm", "invite", "listen", "identity"),
    "Watching and stopping it": ("ready_file", "drain_seconds", "log_level", "log_json"),
}
"""What each flag is for, as the help shows them."""


@takes(GatewayFlags, GATEWAY_GROUPS)
def gateway(flags: GatewayFlags) -> None:
    """Start a gateway: clients of OpenAI, Ollama, Anthropic or FauxPilot use the network through it."""
    from gateway.gateway import check_host
    from p2pnet.cli import logs
    from p2pnet.cli.joining import joining
    from p2pnet.cli.lifecycle import run_service
    from p2pnet.cli.settings import IdentityFile, address_book_of, listen_addresses
    from p2pnet.config import NetworkConfig

    logs.configure(flags.log_level, flags.log_json)
    check_host(flags.host, flags.api_key_file is not None)
    joined = joining(flags.initial_peers, flags.swarm, flags.invite)
    with IdentityFile.claim(flags.identity, "gateway", joined.folder) as identity_file:
        network = NetworkConfig(
            identity_file=identity_file,
            address_book=address_book_of(identity_file),
            listen=listen_addresses(flags.listen),
            initial_peers=joined.initial_peers,
            is_client=True,
        )
        config = _config_of(flags, network, joined.membership)
        run_service(
            partial(_serving, flags, network, joined.membership, config),
            flags.ready_file,
            "The gateway is ready.",
            HINTS,
        )


def _config_of(flags: GatewayFlags, network: NetworkConfig, membership: Membership | None) -> GatewayConfig:
    """Raises UsageError."""
    from gateway.audits.modes import parse_audits
    from gateway.dispatch.dispatcher import DispatchConfig
    from gateway.gateway import GatewayConfig
    from gateway.http.limits import HttpLimits
    from gateway.http.proxies import parse_proxies
    from gateway.http.web_pages import parse_web_pages
    from gateway.model_names.naming import parse_aliases
    from gateway.queueing.admission import QueueLimits
    from gateway.serving import ServingConfig

    return GatewayConfig(
        http=HttpLimits(keep_responses_s=flags.keep_responses),
        serving=ServingConfig(
            QueueLimits(flags.max_waiting),
            DispatchConfig(flags.wait_seconds),
            parse_audits(None if flags.audit is None else flags.audit.value, flags.auditor),
        ),
        history_file=network.identity_file.with_suffix(".sqlite3"),
        standing_file=network.identity_file.with_suffix(".standing.sqlite3"),
        key_file=flags.api_key_file,
        vouched_by=None if flags.vouched_by is None else volunteer(flags.vouched_by),
        aliases=parse_aliases(flags.alias),
        code_model=flags.code_model,
        initial_peers=network.initial_peers,
        swarm=None if membership is None else membership.invitation.name,
        proxies=parse_proxies(flags.trusted_proxy),
        pages=parse_web_pages(flags.allowed_host, flags.allowed_origin),
    )


def volunteer(path: Path) -> Identity:
    """The identity of the worker that vouches for this gateway. Raises UsageError."""
    from p2pnet.identity import Identity

    try:
        return Identity.load(path)
    except UsageError as error:
        raise UsageError(error.message, "Name your worker's key file with --vouched-by.") from error


def _look_for_cycles_seldom() -> None:
    """And never again among what a start leaves, which stays for ever."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


@asynccontextmanager
async def _serving(
    flags: GatewayFlags, network: NetworkConfig, membership: Membership | None, config: GatewayConfig
) -> AsyncIterator[Ready]:
    from gateway.gateway import Gateway
    from p2pnet.cli.lifecycle import Ready
    from p2pnet.peer import Peer

    peer = await Peer.join(network, membership=membership)
    try:
        running = await Gateway.start(peer.network, peer.directory, flags.host, flags.port, config, peer.identity)
        _look_for_cycles_seldom()
        try:
            yield Ready(peer.identity.peer_id, await peer.join_addresses(), running.url)
        finally:
            await running.stop(flags.drain_seconds)
    finally:
        await peer.close()
