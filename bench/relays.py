"""What it costs a relay to carry bytes, over few circuits and over many at the same time.

    python -m bench.relays [--mb N] [--circuits N...] [--json [FILE]]

A relay without limits, in a process of its own, and on this machine peers that nobody can dial and peers that ask for
them. Each pair has a circuit of its own, and all take their part of the bytes at once. Beside it the same bytes over a
stream that no relay carries, so that a busy machine is in both. CPU is that of the relay's own process and of its p2pd.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console
from rich.table import Table

from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig, RelayLimits
from p2pnet.network.interface import Stream
from p2pnet.network.multiaddrs import is_relayed
from p2pnet.peer import Peer

PROTOCOL = "/p2pnet/bench/1"
MB = 1_000_000
CHUNK = bytes(64 << 10)
UNLIMITED = RelayLimits(
    data_bytes=1 << 40,
    max_circuits_from_an_address=1024,
    circuits_per_minute=1_000_000,
    bytes_per_s=1 << 40,
    bytes_per_s_of_an_address=1 << 40,
)
TCP = LOOPBACK_LISTEN[:1]
"""Holes are punched with QUIC alone: nothing goes past the relay."""


@dataclass(frozen=True)
class Report:
    """Bytes in one direction. CPU in milliseconds for each of the MB: of the relay's Python, and of its p2pd."""

    circuits: int
    mb_per_s: float
    python_ms_per_mb: float
    p2pd_ms_per_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.relays", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=int, default=200, help="megabytes in each measurement (%(default)s)")
    parser.add_argument("--circuits", type=int, nargs="+", default=[1, 10, 100], help="at the same time")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write the numbers")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="bench-") as folder, relay_in(Path(folder)) as relay:
        reports = asyncio.run(measure(relay, Path(folder), options.circuits, options.mb))
    Console(stderr=options.json == "-").print(_table(reports))
    if options.json is not None:
        text = json.dumps([asdict(report) for report in reports], indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0


@dataclass(frozen=True)
class Relay:
    """One that runs. `pid` is of its Python; its p2pd is a child of that."""

    pid: int
    address: str

    def cpu_s(self) -> tuple[float, float]:
        """Of its Python, and of its p2pd."""
        process = psutil.Process(self.pid)
        (daemon,) = (child for child in process.children() if child.name() == "p2pd")
        return _cpu_s(process), _cpu_s(daemon)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(relay: Relay, folder: Path, counts: Sequence[int], mb: int) -> list[Report]:
    """For each number of circuits, and last without any."""
    hidden_count = ceil(sqrt(max(counts)))
    askers_count = ceil(max(counts) / hidden_count)
    async with (
        peers(folder, "hidden", hidden_count, relay) as hidden,
        peers(folder, "asker", askers_count, relay) as askers,
    ):
        for peer in hidden:
            await peer.network.handle(PROTOCOL, _send)
        pairs = [(asker, peer) for asker in askers for peer in hidden]
        # Whoever has been dialled directly is not reached through the relay again.
        return [await _measured(relay, pairs[: max(1, count)], count, mb) for count in (*counts, 0)]


@contextlib.contextmanager
def relay_in(folder: Path) -> Iterator[Relay]:
    """One in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_be_relay, args=(folder, theirs), daemon=False)
    process.start()
    try:
        assert process.pid is not None
        yield Relay(process.pid, ours.recv())
    finally:
        ours.send("leave")
        process.join()


def _be_relay(folder: Path, told: Connection) -> None:
    async def run() -> None:
        config = NetworkConfig(folder / "relay.key", TCP, is_bootstrap=True, relay=UNLIMITED)
        peer = await Peer.join(config)
        try:
            told.send((await peer.network.addresses())[0])
            await asyncio.to_thread(told.recv)
        finally:
            await peer.close()

    asyncio.run(run())


@contextlib.asynccontextmanager
async def peers(folder: Path, kind: str, count: int, relay: Relay) -> AsyncIterator[list[Peer]]:
    """Peers that have joined through the relay."""
    joined: list[Peer] = []
    try:
        for number in range(count):
            is_hidden = kind == "hidden"
            joined.append(
                await Peer.join(
                    NetworkConfig(
                        folder / f"{kind}-{number}.key",
                        TCP,
                        initial_peers=(relay.address,),
                        is_client=not is_hidden,
                        is_behind_nat=is_hidden,
                    )
                )
            )
        yield joined
    finally:
        await asyncio.gather(*(peer.close() for peer in joined))


async def _measured(relay: Relay, pairs: Sequence[tuple[Peer, Peer]], circuits: int, mb: int) -> Report:
    part = mb * MB // len(pairs)
    streams = []
    for asker, peer in pairs:
        addresses = [each for each in await peer.network.addresses() if is_relayed(each) == (circuits > 0)]
        if not circuits:
            await asker.network.hang_up(peer.identity.peer_id)
        streams.append(await asker.network.open_stream(peer.identity.peer_id, PROTOCOL, addresses))
    before, began_s = relay.cpu_s(), time.monotonic()
    await asyncio.gather(*(_receive(stream, part) for stream in streams))
    took_s, after = time.monotonic() - began_s, relay.cpu_s()
    python_s, p2pd_s = (end - start for end, start in zip(after, before, strict=True))
    return Report(circuits, mb / took_s, 1000 * python_s / mb, 1000 * p2pd_s / mb)


async def _receive(stream: Stream, count: int) -> None:
    await stream.write(count.to_bytes(8, "big"))
    while count > 0:
        data = await stream.read()
        if not data:
            raise RuntimeError("a stream was lost")
        count -= len(data)
    stream.close()


async def _send(stream: Stream) -> None:
    count = int.from_bytes(await stream.read(), "big")
    while count > 0:
        await stream.write(CHUNK[:count])
        count -= len(CHUNK)
    while await stream.read():
        pass


def _table(reports: Sequence[Report]) -> Table:
    table = Table()
    for column in ("circuits", "MB/s", "relay's Python, ms a MB", "relay's p2pd, ms a MB"):
        table.add_column(column, justify="right")
    for report in reports:
        name = str(report.circuits) if report.circuits else "none: directly"
        numbers = (report.mb_per_s, report.python_ms_per_mb, report.p2pd_ms_per_mb)
        table.add_row(name, *(f"{number:.1f}" for number in numbers))
    return table


if __name__ == "__main__":
    sys.exit(main())
