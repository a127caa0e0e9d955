"""`p2pnet up` as real processes on loopback: a network out of nothing, and nothing of it left."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from tests.processes import processes, wait_until
from tests.scripted_server import Reply, scripted

pytestmark = pytest.mark.timeout(300)

ON_LOOPBACK = {"P2PNET_LISTEN": "/ip4/127.0.0.1/tcp/0 /ip4/127.0.0.1/udp/0/quic-v1"}


async def test_all_of_it_is_there_and_then_gone(tmp_path: Path) -> None:
    """Given a server of models, when `p2pnet up` lends it, then a browser is shown the page of a gateway that offers
    its model; and Ctrl-C ends every process."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/seen.new\nmv {tmp_path}/seen.new {tmp_path}/seen\n')
    browser.chmod(0o755)
    environment = ON_LOOPBACK | {"BROWSER": f"{browser} %s", "DISPLAY": ":99"}
    listed = Reply((b'{"object": "list", "data": [{"id": "theirs", "object": "model"}]}',))
    async with scripted({"/v1/models": listed, "/v1/chat/completions": Reply(status=400)}) as server:
        with processes("up") as start:
            up = start("up", "--upstream", server.url, "--port", "0", environment=environment)
            url = await asyncio.to_thread(lambda: up.ready.http)
            assert (tmp_path / "seen").read_text() == f"{url}\n"
            offered = f"{url}/v1/models"
            await asyncio.to_thread(
                lambda: wait_until(lambda: "theirs" in httpx.get(offered).text, "its model is offered")
            )
            assert "$ p2pnet bootstrap\n$ p2pnet gateway --port 0 --initial-peers /ip4/127.0.0.1/tcp/" in up.log
            assert f"$ p2pnet serve --upstream {server.url} --initial-peers /ip4/127.0.0.1/tcp/" in up.log
            assert "Others join with:\n  p2pnet up --invite p2pnet-join:/ip4/127.0.0.1/" in up.log
            assert await asyncio.to_thread(lambda: up.stop(signal.SIGINT)) == 0
            assert up.leftovers() == []
