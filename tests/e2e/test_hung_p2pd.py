"""A p2pd that lives and answers nothing is ended, and another one takes its place as the same peer."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil

from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.identity import Identity
from p2pnet.network.hivemind.network import HivemindNetwork
from p2pnet.peer import now_ms

ANSWER_S = 0.3
"""More than p2pd takes for what it knows itself, so that the story is short."""

BACK_S = 30.0
"""Three questions, and the start of another p2pd on a machine that is busy."""


def p2pds() -> set[int]:
    """Those of this process."""
    return {child.pid for child in psutil.Process().children() if child.name() == "p2pd"}


async def test_another_one_takes_its_place(tmp_path: Path) -> None:
    before = p2pds()
    config = NetworkConfig(tmp_path / "key", LOOPBACK_LISTEN, p2pd_answer_s=ANSWER_S)
    identity = Identity.load_or_create(config.identity_file)
    network = await HivemindNetwork.start(config, identity, lambda _: False, now_ms)
    try:
        addresses = await network.addresses()
        (hung,) = p2pds() - before
        os.kill(hung, signal.SIGSTOP)
        async with asyncio.timeout(BACK_S):
            while not p2pds() - before - {hung}:
                await network.wait_changed()
        assert hung not in p2pds()
        assert await network.addresses() == addresses
    finally:
        await network.close()
