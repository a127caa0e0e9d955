"""Serves GET /metrics over HTTP in the worker's own event loop. Knows nothing of what the page says."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from p2pnet.errors import UsageError

SHUTDOWN_S = 1.0
"""A scrape takes a few milliseconds; who is slower than this at the end is cut off."""

Scrape = Callable[[str], tuple[bytes, str]]
"""From a request's Accept header to a page and its content type."""


class MetricsServer:
    """A running server. `url` is the page's, with the port that it really has."""

    def __init__(self, runner: web.AppRunner, host: str) -> None:
        self._runner = runner
        port = runner.addresses[0][1]
        self.url = f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"

    @classmethod
    async def start(cls, scrape: Scrape, host: str, port: int) -> MetricsServer:
        """Serve until `stop`. Port 0 takes any free port. Raises UsageError when the address cannot be had."""

        async def page(request: web.Request) -> web.Response:
            body, content_type = scrape(request.headers.get("Accept", ""))
            return web.Response(body=body, headers={"Content-Type": content_type})

        app = web.Application()
        app.router.add_get("/metrics", page)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise UsageError(
                f"The metrics cannot be served on {host}, port {port}: {error.strerror or error}.",
                "Pass another --metrics-port (0 is any free one) or --metrics-host.",
            ) from error
        return cls(runner, host)

    async def stop(self) -> None:
        await self._runner.cleanup()
