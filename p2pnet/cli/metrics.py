"""What `p2pnet serve --metrics-port` adds to a worker: its counts, and a page for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pnet.worker.metrics import WorkerMetrics

logger = logging.getLogger(__name__)


@asynccontextmanager
async def worker_metrics(host: str, port: int | None) -> AsyncIterator[WorkerMetrics | None]:
    """Serve what is counted for as long as this is open; None without a port. Raises UsageError."""
    if port is None:
        yield None
        return
    from p2pnet.worker.metrics import WorkerMetrics
    from p2pnet.worker.metrics_server import MetricsServer

    metrics = WorkerMetrics()
    server = await MetricsServer.start(metrics.scrape, host, port)
    logger.info("metrics are at %s", server.url)
    try:
        yield metrics
    finally:
        await server.stop()
