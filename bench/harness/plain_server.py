"""The same echoes behind the same HTTP surface in one process, without the network: what `overhead` compares with.

Run as `python -m bench.harness.plain_server`; the benchmark does.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.harness import echo_models
from gateway.app import create_app
from gateway.http.server import serve_http
from gateway.interface import Caller, EmbeddingEvent, GenerationEvent
from gateway.service import GatewayService
from p2pnet.cli import logs
from p2pnet.cli.lifecycle import Ready, run_service
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import ModelNotFound
from p2pnet.messages import GenerateRequest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready-file", type=Path, required=True)
    options = parser.parse_args()
    logs.configure("warning", is_json=False)
    backends = {echo_models.INSTANT: echo_models.instant(), echo_models.STEPPED: echo_models.stepped()}

    def generate(request: GenerateRequest, caller: Caller) -> AsyncGenerator[GenerationEvent, None]:
        return backends[request.model].generate(request)

    def embed(request: EmbedRequest, caller: Caller) -> AsyncGenerator[EmbeddingEvent, None]:
        raise ModelNotFound("Nothing here makes vectors.")

    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        app = create_app(GatewayService(generate, embed, list_models=lambda: (), is_ready=lambda: True))
        server = await serve_http(app, "127.0.0.1", 0)
        try:
            yield Ready("none: not a peer", (), server.url)
        finally:
            await server.stop(drain_s=1)

    run_service(service, options.ready_file, "The plain server is ready.")


if __name__ == "__main__":
    main()
