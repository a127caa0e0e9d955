"""A worker that says what it is told, one word every so often, under as many names of models as a test wants.

python -m tests.page.saying_worker --model echo --model other --delay-ms 50 --name attic --initial-peers ADDRESS ...
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from p2pnet.cli import logs
from p2pnet.cli.lifecycle import Ready, run_service
from p2pnet.cli.settings import IdentityFile
from p2pnet.config import NetworkConfig, WorkerConfig
from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--name", default="", help="what its owner calls it")
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--listen", action="append", required=True)
    parser.add_argument("--initial-peers", action="append", required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    options = parser.parse_args()
    logs.configure("warning", is_json=False)
    with IdentityFile.claim(None, "worker") as identity_file:
        config = NetworkConfig(identity_file, listen=tuple(options.listen), initial_peers=tuple(options.initial_peers))
        run_service(lambda: _service(config, options), options.ready_file, "The saying worker is ready.")


@asynccontextmanager
async def _service(config: NetworkConfig, options: argparse.Namespace) -> AsyncIterator[Ready]:
    from p2pnet.peer import Peer, now_ms
    from p2pnet.worker.serve import Worker

    peer = await Peer.join(config)
    try:
        backends = [EchoBackend(EchoOptions(model, delay_s=options.delay_ms / 1000)) for model in options.model]
        settings = WorkerConfig(drain_s=1, name=options.name)
        worker = await Worker.start(peer.network, peer.identity, backends, now_ms, settings)
        try:
            yield Ready(peer.identity.peer_id, await peer.join_addresses())
        finally:
            await worker.stop()
    finally:
        await peer.close()


if __name__ == "__main__":
    main()
