"""A bad line, as netem would make it where the kernel has no netem: what a machine sends is delayed, and partly lost.

    ip netns exec NAME python -m tests.faults.bad_line --loss 0.2 --delay-ms 200 --seed 1 --ready-file ready.json

Everything that the namespace sends to the public segment goes through a TUN device to this program, and from it, if it
is not lost, back into the kernel and out. Undone when the program ends. Which packets are lost follows from the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import random
import signal
import struct
import subprocess
from pathlib import Path

from tests.nat.topology import PUBLIC_PREFIX

DEVICE = "line0"
TABLE = "100"
MAX_PACKET_BYTES = 1 << 16
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001


class BadLine:
    """Packets in, some packets out, later."""

    def __init__(self, device: int, loss: float, delay_s: float, rng: random.Random) -> None:
        self._device = device
        self._loss = loss
        self._delay_s = delay_s
        self._rng = rng
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        self._loop.add_reader(self._device, self._read)

    def _read(self) -> None:
        try:
            while True:
                packet = os.read(self._device, MAX_PACKET_BYTES)
                if self._rng.random() >= self._loss:
                    self._loop.call_later(self._delay_s, self._write, packet)
        except BlockingIOError:
            return

    def _write(self, packet: bytes) -> None:
        os.write(self._device, packet)


def open_device() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TUN_NO_PI))
    return device


def reroute(address: str) -> None:
    """Our own packets go to the device; what comes out of it goes on as it would have gone before."""
    for setting in ("ip_forward=1", "conf.all.rp_filter=0", "conf.eth0.rp_filter=0", f"conf.{DEVICE}.rp_filter=0"):
        _run("sysctl", "-qw", f"net.ipv4.{setting}")
    _run("sysctl", "-qw", f"net.ipv4.conf.{DEVICE}.accept_local=1")
    _run("ip", "link", "set", DEVICE, "up")
    _run("ip", "route", "add", "default", "dev", DEVICE, "src", address, "table", TABLE)
    _run("ip", "rule", "add", *_rule())


def _rule() -> tuple[str, ...]:
    return ("iif", "lo", "to", f"{PUBLIC_PREFIX}.0/24", "lookup", TABLE)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


async def serve(options: argparse.Namespace) -> None:
    device = open_device()
    BadLine(device, options.loss, options.delay_ms / 1000, random.Random(options.seed)).open()
    reroute(options.address)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    options.ready_file.write_text('{"peer_id": "", "addresses": []}')
    try:
        await stopped.wait()
    finally:
        _run("ip", "rule", "del", *_rule())
        os.close(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", type=float, required=True)
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--address", required=True, help="of this machine on the segment")
    parser.add_argument("--ready-file", type=Path, required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
