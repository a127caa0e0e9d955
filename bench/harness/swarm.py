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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
TRANSPORTS = {
    "both": ("--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"),
    "tcp": ("--listen", "/ip4/127.0.0.1/tcp/0"),
    "quic": ("--listen", "/ip4/127.0.0.1/udp/0/quic-v1"),
}
"""What peers listen on. With both, p2pd dials QUIC."""
P2PNET = (sys.executable, "-m", "p2pnet")
ECHO_WORKER = (sys.executable, "-m", "bench.harness.echo_worker")
PLAIN_SERVER = (sys.executable, "-m", "bench.harness.plain_server")
INSTANT_UPSTREAM = (sys.executable, "-m", "bench.harness.instant_upstream")

START_TIMEOUT_S = 90.0
"""A process is ready within a second on an idle machine; this is for the busiest."""
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
        self.name = name
        self._child = child
        self._folder = folder
        self._ready: dict[str, Any] | None = None

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def log(self) -> str:
        return self.file("log").read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

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

    @property
    def daemon_pid(self) -> int | None:
        """The process id of its p2pd; None while there is none."""
        return next((daemon.pid for daemon in self._daemons()), None)

    def cpu_seconds(self) -> CpuSeconds:
        return CpuSeconds(_used(psutil.Process(self.pid)), sum(map(_used, self._daemons())))

    def kill(self) -> None:
        """kill -9."""
        self._child.kill()
        self._child.wait()

    def kill_daemon(self) -> None:
        """kill -9 of its p2pd alone."""
        for daemon in self._daemons():
            daemon.kill()

    def kill_with_daemon(self) -> None:
        """kill -9 of both at the same time, as when the machine goes: nobody is left to say goodbye."""
        daemons = self._daemons()
        self._child.kill()
        for daemon in daemons:
            daemon.kill()
        self._child.wait()

    def suspend(self) -> None:
        """SIGSTOP: it keeps its connections and says nothing. Its p2pd goes on."""
        self._child.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._child.send_signal(signal.SIGCONT)

    def file(self, name: str) -> Path:
        """A file in its own folder."""
        return self._folder / name

    def ask_to_stop(self) -> None:
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            self._child.send_signal(signal.SIGCONT)  # one that is suspended hears nothing

    def wait_stopped(self) -> None:
        """Wait for its end after `ask_to_stop`; kill it when it does not leave."""
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _daemons(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.pid).children() if child.name() == "p2pd"]

    def _read(self, file: str) -> dict[str, Any]:
        path = self._folder / file
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not path.exists():
            if self._child.poll() is not None or time.monotonic() > deadline_s:
                raise StartFailed(f"{self.name} did not start:\n{self.log}")
            time.sleep(POLL_S)
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content


class Swarm:
    """Starts processes that share a data folder. Make one with `swarm`."""

    def __init__(self, folder: Path, transport: str, checkout: Path = ROOT) -> None:
        self._folder = folder
        self._checkout = checkout
        self._listen = TRANSPORTS[transport]
        self._processes: list[Process] = []

    def bootstrap(self, *arguments: str) -> Process:
        return self._start("bootstrap", *P2PNET, "bootstrap", *self._listen, *arguments)

    def gateway(self, peer: Process, port: int = 0, *arguments: str) -> Process:
        join = (*self._listen, "--initial-peers", peer.address)
        return self._start("gateway", *P2PNET, "gateway", "--port", str(port), *join, *arguments)

    def echo_worker(self, peer: Process, *arguments: str) -> Process:
        join = (*self._listen, "--initial-peers", peer.address)
        return self._start("worker", *ECHO_WORKER, *join, "--timings-file", "timings.json", *arguments)

    def worker(self, peer: Process, *arguments: str) -> Process:
        """With a real model."""
        join = (*self._listen, "--initial-peers", peer.address)
        return self._start("worker", *P2PNET, "serve", *join, *arguments, OMP_NUM_THREADS="1")

    def driver(self, peer: Process, *arguments: str) -> Process:
        """Of a model whose layers lie at workers with `--layers`."""
        join = (*self._listen, "--initial-peers", peer.address)
        return self._start("driver", *P2PNET, "drive", *join, *arguments, OMP_NUM_THREADS="1")

    def program(self, module: str, peer: Process, *arguments: str) -> Process:
        """Any other that joins, and takes the flags that all of them take."""
        join = (*self._listen, "--initial-peers", peer.address)
        return self._start(module.rsplit(".", 1)[1], sys.executable, "-m", module, *join, *arguments)

    def elsewhere(self, name: str, prefix: Sequence[str], *command: str) -> Process:
        """Any program that writes a ready file, run by what `prefix` says: on another machine of a topology."""
        return self._start(name, *prefix, *command, OMP_NUM_THREADS="1")

    def plain_server(self) -> Process:
        return self._start("plain", *PLAIN_SERVER)

    def instant_upstream(self) -> Process:
        """A server that runs elsewhere, for workers that lend one."""
        return self._start("upstream", *INSTANT_UPSTREAM)

    def stop(self, *processes: Process) -> None:
        """Stop these in order, or all of them, the last one first; kill what does not leave."""
        leaving = processes or tuple(reversed(self._processes))
        for process in leaving:
            process.ask_to_stop()
        for process in leaving:
            process.wait_stopped()

    def kill(self) -> None:
        """All of them at once, with their p2pds. For swarms that are in disorder anyway: an orderly stop takes seconds
        where others are gone already."""
        for process in self._processes:
            if process.is_running:
                process.kill_with_daemon()

    def print_logs(self) -> None:
        """What all of them have said, for whoever wants to know why something has failed."""
        for process in self._processes:
            print(f"---- {process.name}\n{process.log}")

    def _start(self, name: str, *command: str, **environment_too: str) -> Process:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("P2PNET_")}
        environment = inherited | {
            "P2PNET_DATA_DIR": str(self._folder / "data"),
            "PYTHONPATH": str(self._checkout),
            "TMPDIR": str(folder),
            **environment_too,
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
def swarm(transport: str = "both", checkout: Path = ROOT) -> Iterator[Swarm]:
    """A folder for some processes, and what starts them, from this checkout. On leaving they are gone, and so is the
    folder."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        running = Swarm(Path(folder), transport, checkout)
        try:
            yield running
        finally:
            # An impatient second Ctrl-C must not leave processes behind.
            handlers = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
            running.stop()
            for number, handler in handlers:
                signal.signal(number, handler)
            signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
