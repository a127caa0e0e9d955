"""A bad network between gateway and workers, in network namespaces: lost packets, delay, and a partition that heals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from bench.harness.chain_model import chain_text
from tests.faults.swarms import MODEL, SEED
from tests.nat.topology import Host, topology
from tests.processes import Process, Start, processes, wait_until
from tests.requirements import requires_network_namespaces, requires_tools

pytestmark = pytest.mark.timeout(300)

LISTEN = ("--listen", "/ip4/0.0.0.0/tcp/31337", "--listen", "/ip4/0.0.0.0/udp/31337/quic-v1")
DELAY_MS = 50
STREAMS = 6
TOKENS = 60
DELAY_S = 0.2
BAD = ("--loss", "0.2", "--delay-ms", str(1000 * DELAY_S))
MAX_ROUNDS = 10
MAX_SECONDS = 120


@dataclass(frozen=True)
class Told:
    """An answer, and the worker that began it."""

    text: str
    worker: str


@dataclass(frozen=True)
class Site:
    """A bootstrap, a gateway and two workers, each on a machine of its own."""

    start: Start
    gateway_host: Host
    gateway: Process
    worker_hosts: tuple[Host, ...]
    workers: tuple[Process, ...]

    def ask(self, number: int) -> Told:
        """One stream, asked for on the gateway's own machine; fails when it is not complete."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"stream {number}"}],
            "max_tokens": TOKENS,
            "seed": number,
            "stream": True,
        }
        url = f"{self.gateway.ready.http}/v1/chat/completions"
        curl = ("curl", "-siN", "--max-time", str(MAX_SECONDS), url, "-d", json.dumps(body))
        command = [*self.gateway_host.prefix, *curl]
        answered = subprocess.run(command, capture_output=True, text=True, check=False)
        events = [line[6:] for line in answered.stdout.splitlines() if line.startswith("data: ")]
        assert events and events[-1] == "[DONE]", answered.stdout[-500:]
        choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        head = dict(line.split(": ", 1) for line in answered.stdout.splitlines()[:20] if ": " in line)
        return Told(text, head["x-p2pnet-worker"])

    def connect_s(self, host: Host) -> float:
        """How long it takes from the gateway's machine to open a TCP connection to libp2p on another one."""
        curl = ("curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{time_connect}", f"http://{host.address}:31337")
        asked = subprocess.run([*self.gateway_host.prefix, *curl], capture_output=True, text=True, check=False)
        return float(asked.stdout)  # libp2p does not speak HTTP: curl fails later

    def ask_all(self) -> list[Told]:
        with ThreadPoolExecutor(STREAMS) as pool:
            return list(pool.map(self.ask, range(STREAMS)))


EXPECTED = [chain_text(f"stream {number}", number, TOKENS) for number in range(STREAMS)]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    requires_network_namespaces()
    requires_tools("curl")
    with topology() as segment, processes("lossy") as start:
        hosts = [segment.public_host() for _ in range(4)]
        bootstrap = start("bootstrap", *LISTEN, prefix=hosts[0].prefix)
        address = next(a for a in bootstrap.ready.addresses if a.startswith(f"/ip4/{hosts[0].address}/tcp/"))
        join = (*LISTEN, "--initial-peers", address)
        gateway = start("gateway", "--port", "0", *join, prefix=hosts[1].prefix)
        workers = [_worker(start, host, join) for host in hosts[2:]]
        made = Site(start, hosts[1], gateway, tuple(hosts[2:]), tuple(workers))
        for process in (gateway, *workers):
            process.wait_ready()
        wait_until(lambda: _listed(made) == len(workers), "the gateway lists the workers")
        yield made


def test_answers_survive_loss_and_delay(site: Site) -> None:
    """Given a worker behind a line that loses a fifth of all packets and delays the others by 200 ms, then every answer
    is whole and what it has to be."""
    host = site.worker_hosts[0]
    command = (sys.executable, "-m", "tests.faults.bad_line", "--address", host.address, *BAD, "--seed", str(SEED))
    line = site.start.program(*command, name="line", prefix=host.prefix)
    line.wait_ready()
    assert site.connect_s(host) > DELAY_S, "the line is as good as before"
    behind_it = site.workers[0].ready.peer_id
    for _ in range(MAX_ROUNDS):
        answers = site.ask_all()
        assert [answer.text for answer in answers] == EXPECTED
        if behind_it in [answer.worker for answer in answers]:
            break
    else:
        raise AssertionError("nobody was sent to the worker behind the bad line")
    assert line.stop() == 0


def test_answers_survive_a_partition_that_heals(site: Site) -> None:
    """Given streams under way, when one worker's machine is cut off and later connected again, then every answer is
    whole, and the worker is used again."""
    line = site.worker_hosts[0]
    wait_until(lambda: _listed(site) == 2, "both workers are listed")
    with ThreadPoolExecutor(STREAMS) as pool:
        answers = [pool.submit(site.ask, number) for number in range(STREAMS)]
        line.run("ip", "link", "set", "eth0", "down")
        try:
            assert [answer.result().text for answer in answers] == EXPECTED
        finally:
            line.run("ip", "link", "set", "eth0", "up")
    wait_until(lambda: _listed(site) == 2, "the worker is back")
    assert [answer.text for answer in site.ask_all()] == EXPECTED


def _worker(start: Start, host: Host, join: tuple[str, ...]) -> Process:
    command = (sys.executable, "-m", "bench.harness.echo_worker", "--chain", MODEL, "--delay-ms", str(DELAY_MS))
    return start.program(*command, *join, name="worker", prefix=host.prefix)


def _listed(site: Site) -> int:
    """How many workers the gateway lists."""
    listed = json.loads(site.gateway_host.run("curl", "-s", f"{site.gateway.ready.http}/v1/models"))["data"]
    return sum(entry["workers"] for entry in listed)
