"""A worker that serves echoes instead of a model: `p2pnet serve` in all but the loading, in the same order.

Run as `python -m bench.harness.echo_worker`; the benchmarks do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.harness import echo_models
from bench.harness.chain_model import ChainBackend
from bench.harness.served_log import served_log
from p2pnet.cli import logs
from p2pnet.cli.lifecycle import Ready, run_service
from p2pnet.cli.settings import IdentityFile
from p2pnet.config import NetworkConfig, WorkerConfig
from p2pnet.worker.backend import Backend
from p2pnet.worker.observability.metrics import WorkerMetrics
from p2pnet.worker.observability.metrics_server import MetricsServer

SLOTS = 1024
"""More than a benchmark asks for that does not measure how requests are refused."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--model", help="serve this one alone, one token every --delay-ms")
    models.add_argument("--chain", help="the same, each token following from all before it: see chain_model")
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--slots", type=int, default=SLOTS, help="requests taken at the same time for each model")
    parser.add_argument("--listen", action="append", required=True)
    parser.add_argument("--initial-peers", action="append", required=True)
    parser.add_argument("--served-file", type=Path, help="write there which prompts --chain is answering")
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--metrics-file", type=Path, help="serve metrics, and write there at which URL")
    parser.add_argument("--timings-file", type=Path, help="write there when it did what, in Unix seconds")
    options = parser.parse_args()
    logs.configure("warning", is_json=False)
    with IdentityFile.claim(None, "worker") as identity_file:
        config = NetworkConfig(identity_file, listen=tuple(options.listen), initial_peers=tuple(options.initial_peers))

        @asynccontextmanager
        async def service() -> AsyncIterator[Ready]:
            from p2pnet.peer import Peer, now_ms
            from p2pnet.worker.serve import Worker

            timings = {"began": time.time()}
            async with AsyncExitStack() as closing:
                peer = await Peer.join(config)
                closing.push_async_callback(peer.close)
                timings["joined"] = time.time()
                backends = _backends(options)
                metrics = await _serve_metrics(closing, options)
                timings["model_ready"] = time.time()
                worker = await Worker.start(
                    peer.network,
                    peer.identity,
                    backends,
                    now_ms,
                    WorkerConfig(options.slots, drain_s=1),
                    observer=metrics,
                )
                closing.push_async_callback(worker.stop)
                if metrics is not None:
                    metrics.watch(worker.standing)
                timings["announced"] = time.time()
                if options.timings_file is not None:
                    options.timings_file.write_text(json.dumps(timings))
                yield Ready(peer.identity.peer_id, await peer.join_addresses())

        run_service(service, options.ready_file, "The echo worker is ready.")


async def _serve_metrics(closing: AsyncExitStack, options: argparse.Namespace) -> WorkerMetrics | None:
    if options.metrics_file is None:
        return None
    metrics = WorkerMetrics()
    server = await MetricsServer.start(metrics.scrape, "127.0.0.1", 0)
    closing.push_async_callback(server.stop)
    options.metrics_file.write_text(server.url)
    return metrics


def _backends(options: argparse.Namespace) -> list[Backend]:
    delay_s = options.delay_ms / 1000
    if options.chain:
        return [ChainBackend(options.chain, delay_s, served_log(options.served_file))]
    if options.model:
        return [echo_models.paced(options.model, delay_s)]
    return [echo_models.instant(), echo_models.stepped()]


if __name__ == "__main__":
    main()
