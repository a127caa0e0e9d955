"""A whole gateway on loopback, and behind it, in one process, a worker whose model answers by a script."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.app import create_app
from gateway.http.server import serve_http
from gateway.membership.table import PeerTable
from gateway.service import GatewayService
from gateway.serving import Serving
from p2pnet.config import WorkerConfig
from p2pnet.directory import Directory, validator
from p2pnet.network.memory import MemoryWorld
from p2pnet.worker.backend import Backend, EmbedBackend, RerankBackend
from p2pnet.worker.serve import Worker
from tests.stories import ManualClock, peer


@asynccontextmanager
async def scripted_swarm(
    *workers: Sequence[Backend], embedders: Sequence[Sequence[EmbedBackend | RerankBackend]] = ()
) -> AsyncIterator[str]:
    """The gateway's URL. Each worker serves its backends, and its embedders if there are any."""
    clock = ManualClock()
    world = MemoryWorld(validator(clock))
    async with AsyncExitStack() as running:
        for number, backends in enumerate(workers):
            identity = peer(f"worker {number}")
            network = world.join(identity.peer_id)
            reading = embedders[number] if number < len(embedders) else ()
            config = WorkerConfig(drain_s=0)
            worker = await Worker.start(network, identity, backends, clock, config, embedders=reading)
            running.push_async_callback(worker.stop)
        network = world.join(peer("gateway").peer_id)
        table = PeerTable(Directory(network, clock), unix_s=lambda: clock() / 1000)
        serving = await running.enter_async_context(Serving(network, table, rng=random.Random(1)))
        await table.refresh()
        service = GatewayService(
            generate=serving.dispatcher.run,
            embed=serving.dispatcher.embed,
            tokenize=serving.dispatcher.tokenize,
            rerank=serving.dispatcher.rerank,
            list_models=table.models,
            is_ready=lambda: True,
        )
        server = await serve_http(create_app(service), "127.0.0.1", 0)
        running.push_async_callback(server.stop, drain_s=0)
        yield server.url
