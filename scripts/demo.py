"""`make demo`: a network of four processes on loopback, one answer, and an invitation to ask more.

Uses the same commands as anyone would, and leaves no process, socket or file behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

QUESTION = "What is p2pnet?"
DEFAULT_PORT = 8000
START_TIMEOUT_S = 180.0
"""Loading torch for the first time takes a slow disk a minute."""
STOP_TIMEOUT_S = 20.0
LISTEN = ("--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1")
"""A demonstration stays on this machine."""

COMMAND = (sys.executable, "-m", "p2pnet")


class Failure(Exception):
    """One of the processes did not start."""


class Network:
    """The processes of the demonstration."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = os.environ | {"P2PNET_DATA_DIR": str(folder / "data")}

    def start(self, name: str, *arguments: str) -> None:
        """Start `p2pnet <arguments>`. It is not ready before `wait` says so."""
        command = [*COMMAND, *arguments, "--ready-file", str(self._folder / f"{name}.json"), "--log-level", "warning"]
        with (self._folder / f"{name}.log").open("wb") as log:
            # A session of its own: Ctrl-C reaches this process, which stops the others in order.
            self._processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def wait(self, name: str) -> dict[str, object]:
        """What its ready file says, once it serves. Raises Failure with its last words when it does not."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        ready_file = self._folder / f"{name}.json"
        while not ready_file.exists():
            if self._processes[name].poll() is not None or time.monotonic() > deadline_s:
                raise Failure(f"The {name} did not start:\n{(self._folder / f'{name}.log').read_text()}")
            time.sleep(0.05)
        content: dict[str, object] = json.loads(ready_file.read_text())
        return content

    def stop(self) -> None:
        """Stop all, the last one first; kill what does not leave."""
        running = list(self._processes.values())[::-1]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def network() -> Iterator[Network]:
    with tempfile.TemporaryDirectory(prefix="p2pnet-demo-") as folder:
        running = Network(Path(folder))
        try:
            yield running
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave processes behind
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            running.stop()


def free_port(wanted: int) -> int:
    """`wanted`, or 0 for any other when it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            print(f"Port {wanted} is in use: the gateway takes another one.")
            return 0
    return wanted


def start_all(running: Network, port: int) -> str:
    """Start a bootstrap, two workers and a gateway; returns the gateway's URL."""
    print("Starting a bootstrap, two workers with the bundled model and a gateway on this machine ...")
    running.start("bootstrap", "bootstrap", *LISTEN)
    addresses = running.wait("bootstrap")["addresses"]
    assert isinstance(addresses, list)
    join = ("--initial-peers", str(addresses[0]), *LISTEN)
    running.start("gateway", "gateway", "--port", str(port), *join)
    for name in ("first worker", "second worker"):
        running.start(name, "serve", "--model", "tiny", *join)
    running.wait("first worker")
    running.wait("second worker")
    return str(running.wait("gateway")["http"])


def wait_for_model(url: str) -> None:
    """Until the gateway has found both workers in the DHT."""
    import httpx

    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        models = httpx.get(f"{url}/v1/models").json()["data"]
        if models and models[0]["workers"] == 2:
            return
        time.sleep(0.1)
    raise Failure("The gateway did not find the workers.")


def ask(url: str) -> None:
    print(f"\n> {QUESTION}")
    subprocess.run([*COMMAND, "chat", "--gateway", url, "--message", QUESTION], check=True)


def invite(url: str) -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Who is in charge?"}], "stream": True})
    print(f"\nThe gateway is at {url}, and any OpenAI client can use {url}/v1. For example:\n")
    print(f"  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n")
    print(f"  .venv/bin/p2pnet chat --gateway {url}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="ask one question and leave")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="the gateway's port")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with network() as running:
            url = start_all(running, free_port(options.port))
            wait_for_model(url)
            ask(url)
            invite(url)
            if not options.once:
                print("Serving until Ctrl-C.", flush=True)
                signal.pause()
    except KeyboardInterrupt:
        print("\nStopped.")
    except (Failure, subprocess.CalledProcessError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
