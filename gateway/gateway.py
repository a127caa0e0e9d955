"""Puts a whole gateway together, on a peer that has joined. It holds no model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from gateway.app import create_app
from gateway.http.access import Access, KeyRing
from gateway.http.limits import HttpLimits
from gateway.http.proxies import Proxies
from gateway.http.server import HttpServer, serve_http
from gateway.http.web_pages import WebPages
from gateway.membership.known_models import Remembered
from gateway.membership.table import PeerTable
from gateway.model_names.naming import Names
from gateway.observability.build_views import Sources, model_views, worker_page
from gateway.observability.choice_log import ChoiceLog
from gateway.observability.history import History
from gateway.observability.http_counts import HttpCounts
from gateway.observability.metrics import GatewayMetrics
from gateway.observability.overview import OverviewBuilder
from gateway.observability.reports import ReportObservers
from gateway.observability.views import Location, Observability
from gateway.observability.watchers import Watchers
from gateway.peers.flags import Flags
from gateway.receipts.witness import Witnesses, unix_ms
from gateway.routing.roster import is_served
from gateway.service import GatewayService
from gateway.serving import Serving, ServingConfig
from gateway.standing.desk import Desk
from gateway.standing.keeper import BookKeeper
from gateway.standing.labels import labels
from gateway.standing.voucher import Voucher
from p2pnet.directory import Directory
from p2pnet.errors import UsageError
from p2pnet.identity import Identity
from p2pnet.network.interface import Network


@dataclass(frozen=True)
class GatewayConfig:
    """What one gateway gives its clients. `history_file` is where it remembers requests, `standing_file` what workers
    gave; None is in memory alone. Without a `key_file` whoever reaches it may use it. `vouched_by` is the identity
    of a worker of its owner's, which vouches for it. `code_model` is what editors that name no model get.
    `initial_peers` are the addresses that it joined through, shown to those who want to lend a machine, and so is
    `swarm`, the private swarm that it is in. `pages` are the web pages that may use it."""

    http: HttpLimits = field(default_factory=HttpLimits)
    serving: ServingConfig = field(default_factory=ServingConfig)
    history_file: Path | None = None
    key_file: Path | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    code_model: str | None = None
    standing_file: Path | None = None
    vouched_by: Identity | None = None
    initial_peers: tuple[str, ...] = ()
    swarm: str | None = None
    proxies: Proxies = field(default_factory=Proxies)
    pages: WebPages = field(default_factory=WebPages)


def check_host(host: str, has_keys: bool) -> None:
    """Raises UsageError where a gateway that anybody may use would listen where anybody can reach it."""
    if has_keys or host == "localhost":
        return
    try:
        is_loopback = ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise UsageError(
            f"Without keys, whoever reaches {host} could use this gateway.",
            "Make a key with `p2pnet keys add NAME --api-key-file keys.txt` and pass --api-key-file keys.txt, or leave "
            "--host at 127.0.0.1.",
        )


class Gateway:
    """A gateway that serves. Make one with `start`."""

    def __init__(self, server: HttpServer, watchers: Watchers, closing: AsyncExitStack) -> None:
        self._server = server
        self._watchers = watchers
        self._closing = closing

    @classmethod
    async def start(
        cls,
        network: Network,
        directory: Directory,
        host: str = "127.0.0.1",
        port: int = 0,
        config: GatewayConfig | None = None,
        identity: Identity | None = None,
    ) -> Gateway:
        """Serve HTTP on `host` and `port` (0: any free one). With its `identity` it signs for what workers give. Raises
        UsageError when the port is taken."""
        config = config or GatewayConfig()
        keys = None if config.key_file is None else KeyRing(config.key_file)
        check_host(host, keys is not None)
        voucher = None if config.vouched_by is None else Voucher(config.vouched_by, network.peer_id, unix_ms)
        async with AsyncExitStack() as opened:
            keeper = await BookKeeper.open(config.standing_file, label=labels(identity))
            opened.push_async_callback(keeper.close)
            desk = Desk(network.peer_id, keeper.book, unix_ms)
            access = Access(keys, prove=desk.prove)
            witnesses = Witnesses(network.peer_id, identity, book=keeper.book, voucher=voucher)
            history = await History.open(config.history_file)
            opened.push_async_callback(history.close)
            flags = Flags(history.flags)
            flags.listen(lambda: history.note_flags(flags.all))
            table = PeerTable(directory, remembered=Remembered(history.known_models, history.has_served), flags=flags)
            choices, reports, watchers = ChoiceLog(), ReportObservers(), Watchers()
            serving = Serving(network, table, config.serving, reports, choices.note, witnesses=witnesses)
            sources = Sources(
                lambda: table.workers,
                lambda: table.lost,
                serving.admission.waiting_by_model,
                serving.audits.judge.view,
                flags,
                announced=lambda: table.announced,
            )
            metrics = GatewayMetrics(
                lambda: model_views(sources),
                streams=lambda: network.open_streams,
                clock_ahead_s=lambda: network.clock.ahead_s,
                audits=lambda: serving.audits.judge.counts,
            )
            location = Location(network.peer_id, config.initial_peers, config.swarm)
            overview = OverviewBuilder(
                sources,
                history,
                location,
                lambda: table.has_refreshed,
                serving.spans,
                lambda: network.clock.ahead_s,
                network.is_direct_to,
                serving.dispatcher.under_way,
            )
            reports.add(history.note, lambda _: history.note_models(table.known_models()))
            reports.add(metrics.note, access.note, overview.note)
            observability = Observability(
                workers=lambda query: worker_page(sources, history, query),
                models=lambda: model_views(sources),
                requests=history.recent,
                choices=choices.views,
                overview=overview.look,
                location=location,
                watchers=watchers,
                scrape=metrics.scrape,
            )
            names = Names(config.aliases, table.models, lambda query: is_served(table.roster, query))
            service = GatewayService(
                generate=lambda request, caller: serving.dispatcher.run(names.resolved(request), caller),
                embed=lambda request, caller: serving.dispatcher.embed(names.resolved(request), caller),
                tokenize=lambda request, caller: serving.dispatcher.tokenize(names.resolved(request), caller),
                rerank=lambda request, caller: serving.dispatcher.rerank(names.resolved(request), caller),
                list_models=table.models,
                is_ready=lambda: table.has_refreshed,
                observability=observability,
                standing=desk,
                code_model_name=config.code_model,
                aliases=config.aliases,
            )
            app = HttpCounts(create_app(service, config.http, access, config.proxies, config.pages), metrics.note_http)
            server = await serve_http(app, host, port, config.proxies)
            await opened.enter_async_context(serving)
            return cls(server, watchers, opened.pop_all())

    @property
    def url(self) -> str:
        return self._server.url

    async def stop(self, drain_s: float) -> None:
        """Take no more requests, let running ones finish for `drain_s` seconds."""
        self._watchers.close()
        await self._server.stop(drain_s)
        await self._closing.aclose()
