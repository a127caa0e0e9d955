"""Puts a gateway together: peer table, dispatcher, HTTP, on a peer that has joined. It holds no model."""

from __future__ import annotations

import asyncio
import random

from gateway.app import create_app
from gateway.dispatch import Dispatcher
from gateway.peers import PeerTable
from gateway.server import HttpServer, serve_http
from gateway.service import GatewayService, HttpLimits
from p2pnet.config import ExchangeTimeouts
from p2pnet.directory import Directory
from p2pnet.network import Network


class Gateway:
    """A gateway that serves. Make one with `start`."""

    def __init__(self, server: HttpServer, refreshing: asyncio.Task[None]) -> None:
        self._server = server
        self._refreshing = refreshing

    @classmethod
    async def start(
        cls,
        network: Network,
        directory: Directory,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: HttpLimits | None = None,
        timeouts: ExchangeTimeouts | None = None,
        peers: PeerTable | None = None,
    ) -> Gateway:
        """Serve HTTP on `host` and `port` (0: any free one). Raises UsageError when the port is taken."""
        peers = peers or PeerTable(directory)
        dispatcher = Dispatcher(network, peers, random.Random(), timeouts=timeouts)
        service = GatewayService(
            generate=dispatcher.run, list_models=peers.models, is_ready=lambda: peers.has_refreshed
        )
        server = await serve_http(create_app(service, limits or HttpLimits()), host, port)
        refreshing = asyncio.create_task(peers.keep_fresh())
        return cls(server, refreshing)

    @property
    def url(self) -> str:
        return self._server.url

    async def stop(self, drain_s: float) -> None:
        """Take no more requests, let running ones finish for `drain_s` seconds."""
        await self._server.stop(drain_s)
        self._refreshing.cancel()
        await asyncio.gather(self._refreshing, return_exceptions=True)
