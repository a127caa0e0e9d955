"""The processes of a benchmark: started as anyone would start them, watched, and gone afterwards, also after Ctrl-C.

Knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
TRANSPORTS = {
    "both": ("--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"),
    "tcp": ("--listen", "/ip4/127.0.0.1/tcp/0"),
    "quic": ("--listen", "/ip4/127.0.0.1/udp/0/quic-v1"),
}
"""What peers listen on. With both, p2pd dials QUIC."""
P2PNET = (sys.executable, "-m", "p2pnet")
ECHO_WORKER = (sys.executable, "-m", "bench.echo_worker")
PLAIN_SERVER = (sys.executable, "-m", "bench.plain_server")

START_TIMEOUT_S = 90.0
"""A process imports hivemind in 1.3 s on an idle machine; this is for the busiest."""
STOP_TIMEOUT_S = 20.0
POLL_S = 0.01


class StartFailed(Exception):
    """A process did not become ready; the message holds its log."""


@dataclass(frozen=True)
class CpuSeconds:
    """What a process and its p2pd have used so far."""

    own: float
    daemon: float


class Process:
    """One process of the swarm."""

    def __init__(self, name: str, child: subprocess.Popen[bytes], folder: Path) -> None:
        self._name = name
        self._child = child
        self._folder = folder
        self._ready: dict[str, Any] | None = None

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ready(self) -> dict[str, Any]:
        """What its ready file says; waits for it. Raises StartFailed."""
        if self._ready is None:
            self._ready = self._read("ready.json")
        return self._ready

    @property
    def timings(self) -> dict[str, float]:
        """When an echo worker did what, in Unix seconds. Ready first."""
        return {name: float(value) for name, value in self._read("timings.json").items()}

    @property
    def address(self) -> str:
        """An address to join through."""
        return str(self.ready["addresses"][0])

    def cpu_seconds(self) -> CpuSeconds:
        process = psutil.Process(self.pid)
        daemons = [child for child in process.children() if child.name() == "p2pd"]
        return CpuSeconds(_used(process), sum(map(_used, daemons)))

    def kill(self) -> None:
        """kill -9."""
        self._child.kill()
        self._child.wait()

    def ask_to_stop(self) -> None:
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)

    def wait_stopped(self) -> None:
        """Wait for its end after `ask_to_stop`; kill it when it does not leave."""
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _read(self, file: str) -> dict[str, Any]:
        path = self._folder / file
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not path.exists():
            if self._child.poll() is not None or time.monotonic() > deadline_s:
                log = (self._folder / "log").read_text(errors="replace")
                raise StartFailed(f"{self._name} did not start:\n{log}")
            time.sleep(POLL_S)
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content


class Swarm:
    """Starts processes that share a data folder. Make one with `swarm`."""

    def __init__(self, folder: Path, transport: str) -> None:
        self._folder = folder
        self._listen = TRANSPORTS[transport]
        self._processes: list[Process] = []

    def bootstrap(self) -> Process:
        return self._start("bootstrap", *P2PNET, "bootstrap", *self._listen)

    def gateway(self, peer: Process) -> Process:
        join = (*self._listen, "--initial-peers", peer.address)
        return self._start("gateway", *P2PNET, "gateway", "--port", "0", *join)

    def echo_worker(self, peer: Process, *arguments: str) -> Process:
        join = (*self._listen, "--initial-peers", peer.address)
        return self._start("worker", *ECHO_WORKER, *join, "--timings-file", "timings.json", *arguments)

    def plain_server(self) -> Process:
        return self._start("plain", *PLAIN_SERVER)

    def stop(self, *processes: Process) -> None:
        """Stop these in order, or all of them, the last one first; kill what does not leave."""
        leaving = processes or tuple(reversed(self._processes))
        for process in leaving:
            process.ask_to_stop()
        for process in leaving:
            process.wait_stopped()

    def _start(self, name: str, *command: str) -> Process:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("P2PNET_")}
        environment = inherited | {
            "P2PNET_DATA_DIR": str(self._folder / "data"),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder),
        }
        with (folder / "log").open("wb") as log:
            child = subprocess.Popen(
                [*command, "--ready-file", "ready.json"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the benchmark, which stops the others in order
            )
        process = Process(name, child, folder)
        self._processes.append(process)
        return process


@contextlib.contextmanager
def swarm(transport: str = "both") -> Iterator[Swarm]:
    """A folder for some processes, and what starts them. On leaving they are gone, and so is the folder."""
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        running = Swarm(Path(folder), transport)
        try:
            yield running
        finally:
            # An impatient second Ctrl-C must not leave processes behind.
            handlers = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
            running.stop()
            for number, handler in handlers:
                signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
