"""What streams that are over leave behind in the opener's p2pd, over TCP and over QUIC.

    python -m bench.stream_memory [--streams N] [--rounds N]

Two peers on this machine; one opens streams to the other, each with one question and one answer, and closes them. The
opener's p2pd is started with Go's trace of its garbage collection, and collects often; the lowest live heap at
the end of each round says what is kept. The trace tells whole MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from bench.harness.swarm import TRANSPORTS
from p2pnet.config import NetworkConfig
from p2pnet.network.interface import Stream
from p2pnet.peer import Peer

PROTOCOL = "/p2pnet/bench/1"
AT_ONCE = 32
QUESTION = b"?" * 200
ANSWER = b"." * 2000

TRACED = {"GODEBUG": "gctrace=1", "GOGC": "10"}
LIVE_HEAP = re.compile(r"->(\d+) MB")
"""The last number of `24->26->23 MB` in a line of the trace: what was found to be in use."""

LAST = 10
"""Collections that the end of a round is."""


class _Heap(logging.Handler):
    """Reads the trace from what p2pd says."""

    def __init__(self) -> None:
        super().__init__()
        self.live_mib: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        if found := LIVE_HEAP.findall(record.getMessage()):
            self.live_mib.append(int(found[-1]))


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    """A p2pd that is started inside traces its heap."""
    before = dict(os.environ)
    os.environ.update(TRACED)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


async def measure(transport: str, streams: int, rounds: int, heap: _Heap) -> list[int]:
    """The lowest live heap at the end of each round, in MiB."""
    listen = TRANSPORTS[transport][1::2]
    with TemporaryDirectory(prefix="bench-") as folder:
        server = await Peer.join(NetworkConfig(Path(folder) / "server.key", listen))
        try:
            await server.network.handle(PROTOCOL, _answer)
            addresses = await server.network.addresses()
            with _traced():
                config = NetworkConfig(Path(folder) / "client.key", listen, initial_peers=addresses, is_client=True)
                client = await Peer.join(config)
            try:
                lowest = []
                for _ in range(rounds):
                    for _ in range(streams // AT_ONCE):
                        await asyncio.gather(*(_ask(client, server, addresses) for _ in range(AT_ONCE)))
                    lowest.append(min(heap.live_mib[-LAST:]))
                return lowest
            finally:
                await client.close()
        finally:
            await server.close()


async def _answer(stream: Stream) -> None:
    await stream.read()
    await stream.write(ANSWER)


async def _ask(client: Peer, server: Peer, addresses: tuple[str, ...]) -> None:
    stream = await client.network.open_stream(server.identity.peer_id, PROTOCOL, addresses)
    await stream.write(QUESTION)
    while await stream.read():
        pass
    stream.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=4000, help="in each round")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    heap = _Heap()
    logger = logging.getLogger("p2pnet.network.hivemind.daemon")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(heap)
    logger.propagate = False
    for transport in ("tcp", "quic"):
        lowest = uvloop.run(measure(transport, options.streams, options.rounds, heap))
        print(f"{transport}: live heap after each {options.streams} streams, MiB: {', '.join(map(str, lowest))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
