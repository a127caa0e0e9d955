"""Requests over streams that are kept, on real daemons: one stream for many requests, and none left when both part."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from p2pnet.client import generate
from p2pnet.messages import Finished, TextDelta
from p2pnet.network.interface import Stream
from p2pnet.network.kept_streams import KeptStreams
from p2pnet.peer import now_ms
from p2pnet.worker.backends.synthetic.echo import EchoBackend
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.generate_handler import GenerateHandler
from tests.e2e.asking import until
from tests.e2e.test_streams import TRANSPORTS, pair
from tests.stories import ask

REQUESTS, AT_ONCE = 200, 10
PARTED_S = 5.0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_many_requests_take_few_streams(tmp_path: Path, transport: str) -> None:
    catalogue, kept = Catalogue([EchoBackend()]), KeptStreams()
    handler = GenerateHandler(catalogue.find, LoadMeter(AT_ONCE, catalogue, now_ms))
    opened = 0

    async def counted(stream: Stream) -> None:
        nonlocal opened
        opened += 1
        await handler(stream)

    async with pair(tmp_path, transport) as given:
        client, server = given.client.network, given.server.network
        await server.handle(handler.protocol.name, counted)

        async def ask_many() -> None:
            for _ in range(REQUESTS // AT_ONCE):
                events = [event async for event in generate(client, server.peer_id, ask(), given.addresses, kept=kept)]
                assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "one two three"
                assert isinstance(events[-1], Finished) and events[-1].keep_stream

        await asyncio.gather(*(ask_many() for _ in range(AT_ONCE)))
        # Each may be opened once more, when the connection is first seen to be a direct one.
        assert AT_ONCE <= opened <= 2 * AT_ONCE
        assert 0 < len(kept) <= AT_ONCE
        # When the connection is lost, the next request is answered over a new one.
        before = opened
        await client.hang_up(server.peer_id)
        await ask_many()
        assert before < opened <= before + 2
        # When the worker lets them go, then both ends have parted from all.
        await handler.drain(0)

        async def have_parted() -> bool:
            return not len(kept) and not client.open_streams

        await until(have_parted, "both ends have parted from all streams", PARTED_S)
