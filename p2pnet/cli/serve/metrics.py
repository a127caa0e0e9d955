"""What `p2pnet serve --metrics-port` adds to a worker: its counts, and a page for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pnet.worker.observability.metrics import WorkerMetrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measuring:
    """What counts, and the URL of its page; both None where nobody asked for it."""

    metrics: WorkerMetrics | None = None
    url: str | None = None


@asynccontextmanager
async def worker_metrics(host: str, port: int | None) -> AsyncIterator[Measuring]:
    """Serve what is counted for as long as this is open; nothing without a port. Raises UsageError."""
    if port is None:
        yield Measuring()
        return
    from p2pnet.worker.observability.metrics import WorkerMetrics
    from p2pnet.worker.observability.metrics_server import MetricsServer

    metrics = WorkerMetrics()
    server = await MetricsServer.start(metrics.scrape, host, port)
    logger.info("metrics are at %s", server.url)
    try:
        yield Measuring(metrics, server.url)
    finally:
        await server.stop()
