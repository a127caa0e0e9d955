"""Runs p2pnet's commands as child processes: ready files, logs, signals, and a look at what they leave behind.

Each process has a temp folder of its own (TMPDIR): what it leaves there is found whatever else the machine does.
Every process is ended by its own id.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

READY_TIMEOUT_S = 90.0
"""A worker imports torch and loads its model: 5 s alone, a minute when the machine is busy with other work."""
STOP_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 90.0
POLL_S = 0.05

TCP_AND_QUIC_ON_LOOPBACK = ("--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1")


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> float:
    """Wait for a condition, and return how long it took in seconds. Fails with `what` when it does not come."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > timeout_s:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(POLL_S)
    return time.monotonic() - began_s


@dataclass(frozen=True)
class Ready:
    """A ready file's content."""

    peer_id: str
    addresses: tuple[str, ...]
    http: str | None = None
    metrics: str | None = None

    @property
    def address(self) -> str:
        """The TCP address to join through."""
        return next(address for address in self.addresses if "/tcp/" in address)


@dataclass(frozen=True)
class Outcome:
    """How a command that ends by itself has ended."""

    status: int
    stdout: str
    stderr: str


class Process:
    """One running `p2pnet` command."""

    def __init__(self, name: str, folder: Path, child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.name = name
        self.started_s = time.monotonic()
        self.ready_after_s: float | None = None
        self._folder = folder
        self._child = child
        self._log = log
        self._ready: Ready | None = None
        self._seen = _Traces()

    @classmethod
    def start(
        cls,
        arguments: Sequence[str],
        name: str,
        root: Path,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (),
        at: Path | None = None,
    ) -> Process:
        """Start `p2pnet ARGUMENTS --ready-file ...`, perhaps through a command that runs it elsewhere (`ip netns`).

        Processes with the same `root` share a data folder, as those of one user do. `program` is another command that
        writes a ready file, `at` the folder in which it is started.
        """
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
        (folder / "tmp").mkdir()
        log = (folder / "log").open("wb")
        child = subprocess.Popen(
            [*prefix, *(program or (executable(),)), *arguments, "--ready-file", str(folder / "ready.json")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=clean_environment(root / "data", folder / "tmp") | dict(environment or {}),
            cwd=at,
            start_new_session=True,  # a Ctrl-C for the test run is not one for the swarm: its fixtures end it
        )
        return cls(name, folder, child, log)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    @property
    def ready(self) -> Ready:
        """What the ready file says; waits for it."""
        if self._ready is None:
            self.wait_ready()
        assert self._ready is not None
        return self._ready

    @property
    def daemon_pid(self) -> int | None:
        """The process id of its p2pd; None while there is none."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                if child.name() == "p2pd" and _is_alive(child):
                    return int(child.pid)
        return None

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Ready:
        path = self._folder / "ready.json"
        wait_until(lambda: path.exists() or not self.is_running, f"{self.name} is ready\n{self.log}", timeout_s)
        assert path.exists(), f"{self.name} ended with status {self._child.returncode} before it was ready\n{self.log}"
        self.ready_after_s = time.monotonic() - self.started_s
        fields = json.loads(path.read_bytes())
        self._ready = Ready(fields["peer_id"], tuple(fields["addresses"]), fields.get("http"), fields.get("metrics"))
        self._seen.look(self.pid)
        return self._ready

    def send(self, number: signal.Signals) -> None:
        """Send a signal, after a look at what there is to leave behind."""
        self._seen.look(self.pid)
        self._child.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for its end and return its exit status."""
        wait_until(lambda: not self.is_running, f"{self.name} ends\n{self.log}", timeout_s)
        assert self._child.returncode is not None
        return self._child.returncode

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, and return its exit status."""
        self.send(number)
        return self.wait()

    def leftovers(self) -> list[str]:
        """What is still there after its end: processes (which hold its ports), sockets, files."""
        assert not self.is_running
        found = self._seen.still_there()
        found += [f"temp file {path}" for path in sorted((self._folder / "tmp").iterdir())]
        if (self._folder / "ready.json").exists():
            found.append("its ready file")
        return found

    def discard(self) -> None:
        """End it whatever state it is in, with everything it started. For fixtures; idempotent."""
        self._seen.look(self.pid)
        if self.is_running:
            self._child.kill()
            self._child.wait()
        self._seen.kill()
        self._log.close()


class _Traces:
    """What a process and its descendants have been seen to hold."""

    def __init__(self) -> None:
        self._descendants: set[psutil.Process] = set()
        self._sockets: set[Path] = set()

    def look(self, pid: int) -> None:
        """Note what the process holds at this moment."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            self._descendants |= set(process.children(recursive=True))
            for holder in (process, *self._descendants):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._note_sockets(holder)

    def still_there(self) -> list[str]:
        """What has outlived the process. Who is on the way out is given the time to go."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self._alive(), "all are gone", timeout_s=5)
        return [
            *(f"process {process}" for process in self._alive()),
            *(f"socket {path}" for path in sorted(self._sockets) if path.exists()),
        ]

    def kill(self) -> None:
        for process in self._alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: not self._alive(), "what was killed is gone")

    def _alive(self) -> list[psutil.Process]:
        return [process for process in self._descendants if _is_alive(process)]

    def _note_sockets(self, process: psutil.Process) -> None:
        for connection in process.net_connections("unix"):
            if connection.laddr and str(connection.laddr).startswith("/"):
                self._sockets.add(Path(str(connection.laddr)))


@contextlib.contextmanager
def processes(name: str, program: Sequence[str] = (), at: Path | None = None) -> Iterator[Start]:
    """A folder for some processes, and what starts them. On leaving they are gone, and so is the folder."""
    # Not pytest's tmp_path: sockets' paths may have 107 bytes at most.
    root = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    start = Start(root, program, at)
    try:
        yield start
    except BaseException:
        start.print_logs()
        raise
    finally:
        for process in start.started:
            process.discard()
        shutil.rmtree(root)


class Start:
    """Starts processes that share a data folder, and remembers them. `program` is another `p2pnet` than that of the
    Python that runs the tests, `at` the folder in which they are started."""

    def __init__(self, root: Path, program: Sequence[str] = (), at: Path | None = None) -> None:
        self.root = root
        self._program = program
        self._at = at
        self.started: list[Process] = []

    def __call__(
        self, *arguments: str, name: str = "", prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> Process:
        name = name or arguments[0]
        process = Process.start(arguments, name, self.root, prefix, environment, self._program, self._at)
        self.started.append(process)
        return process

    def bootstrap(self, *arguments: str) -> Process:
        return self("bootstrap", *TCP_AND_QUIC_ON_LOOPBACK, *arguments)

    def worker(self, *arguments: str, peer: str, name: str = "worker") -> Process:
        return self("serve", *TCP_AND_QUIC_ON_LOOPBACK, "--initial-peers", peer, *arguments, name=name)

    def gateway(self, *arguments: str, peer: str) -> Process:
        return self("gateway", "--port", "0", *TCP_AND_QUIC_ON_LOOPBACK, "--initial-peers", peer, *arguments)

    def program(self, *command: str, name: str, prefix: Sequence[str] = ()) -> Process:
        """Another program of this repository that writes a ready file."""
        paths = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        process = Process.start((), name, self.root, prefix, paths, command)
        self.started.append(process)
        return process

    def print_logs(self) -> None:
        """pytest shows it where a test has failed."""
        for process in self.started:
            print(f"---- {process.name} ({'runs' if process.is_running else 'ended'})\n{process.log}")


def run(
    *arguments: str,
    root: Path,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    timeout_s: float = RUN_TIMEOUT_S,
) -> Outcome:
    """Run a `p2pnet` command to its end. One that does not end in time is killed, and that is a failure."""
    temp = Path(tempfile.mkdtemp(prefix="run-", dir=root))
    child = subprocess.Popen(
        [*prefix, executable(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(root / "data", temp) | dict(environment or {}),
        start_new_session=True,
        text=True,
    )
    try:
        stdout, stderr = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        child.kill()
        stdout, stderr = child.communicate()
        raise AssertionError(f"p2pnet {' '.join(arguments)} did not end:\n{stdout}\n{stderr}") from error
    assert not list(temp.iterdir()), f"p2pnet {' '.join(arguments)} left files behind: {list(temp.iterdir())}"
    return Outcome(child.returncode, stdout, stderr)


def executable() -> str:
    """The `p2pnet` of the Python that runs the tests."""
    return str(Path(sysconfig.get_path("scripts")) / "p2pnet")


def clean_environment(data: Path, temp: Path) -> dict[str, str]:
    """Ours without the settings that a developer may have made for p2pnet. Nothing is fetched from a model hub."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("P2PNET_")}
    return inherited | {
        "P2PNET_DATA_DIR": str(data),
        "TMPDIR": str(temp),
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(data / "torch"),  # one of a user, that torch makes whether or not it compiles
        "OMP_NUM_THREADS": "1",  # several small models on one machine only get in each other's way with more
        "COLUMNS": "200",  # tables are not folded
        "PYTHONUNBUFFERED": "1",
    }


def _is_alive(process: psutil.Process) -> bool:
    """A zombie is not: not every container has an init that reaps orphans."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A TCP port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
