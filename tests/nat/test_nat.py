"""Workers that nobody can dial, in network namespaces: they hold places at a relay and serve through it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.nat.topology import Host, Topology, topology
from tests.processes import Process, Start, processes, run, wait_until
from tests.requirements import requires_network_namespaces, requires_tools

pytestmark = pytest.mark.timeout(300)

MODEL = "words"
TOKENS = 2000
TOKEN_DELAY_S = 0.002
MAX_SECONDS = 30
"""From the start of the worker's process to the last token."""
LISTEN = ("--listen", "/ip4/0.0.0.0/tcp/31337", "--listen", "/ip4/0.0.0.0/udp/31337/quic-v1")
LIBP2P_DEFAULT_CIRCUIT_BYTES = 128 << 10
"""Where a relay cuts a circuit, silently, unless it is told otherwise."""


@pytest.fixture
def segment() -> Iterator[Topology]:
    requires_network_namespaces()
    requires_tools("curl")
    with topology() as made:
        yield made


@pytest.fixture
def start() -> Iterator[Start]:
    with processes("nat") as starting:
        yield starting


def test_a_worker_behind_nat_serves_through_the_relay(segment: Topology, start: Start) -> None:
    """Given a bootstrap and a gateway with public addresses, and a worker behind a masquerading router that drops all
    inbound connections and lets it reach nobody but the bootstrap, when a client asks for 2,000 tokens, then they come,
    all of them, through the relay, within 30 s of the worker's start."""
    bootstrap_host, gateway_host = segment.public_host(), segment.public_host()
    worker_host, router = segment.host_behind_nat()
    # libp2p would have the worker dial the gateway, and leave the relay out of it.
    router.run("iptables", "-I", "FORWARD", "-d", gateway_host.address, "-j", "DROP")
    bootstrap = start("bootstrap", *LISTEN, prefix=bootstrap_host.prefix)
    address = _address_at(bootstrap, bootstrap_host)
    gateway = _gateway(start, gateway_host, address)
    _assert_unreachable(gateway_host, worker_host, router)

    began_s = time.monotonic()
    worker = _worker_behind_nat(start, worker_host, address)
    record = _wait_for_circuit(start, gateway_host, gateway, address, worker)
    announced_s = time.monotonic() - began_s
    print("announced:", *record["addresses"])
    assert any(f"/p2p/{bootstrap.ready.peer_id}/p2p-circuit" in dialled for dialled in record["addresses"])

    relayed_before = bootstrap_host.received_bytes()
    completion = _complete(gateway_host, gateway)
    took_s = time.monotonic() - began_s
    relayed = bootstrap_host.received_bytes() - relayed_before
    print(
        f"worker start to ready {worker.ready_after_s:.1f} s, to a circuit in the directory {announced_s:.1f} s, "
        f"to the first token {completion.first_token_s - began_s:.1f} s, to {TOKENS} tokens {took_s:.1f} s; "
        f"{relayed} bytes through the relay"
    )
    assert completion.is_done
    assert completion.finish_reason == "length"
    assert completion.completion_tokens == TOKENS
    assert relayed > LIBP2P_DEFAULT_CIRCUIT_BYTES
    assert took_s < MAX_SECONDS * max(1, os.getloadavg()[0] / (os.cpu_count() or 1))  # others may be using the machine


def test_a_worker_behind_nat_finds_back_to_its_relay(segment: Topology, start: Start) -> None:
    """Given a worker that serves through a relay, when the relay's p2pd is killed, then the worker has a place at the
    next one soon, and the next request is served through it: libp2p would not ask again for an hour."""
    bootstrap_host, gateway_host = segment.public_host(), segment.public_host()
    worker_host, router = segment.host_behind_nat()
    router.run("iptables", "-I", "FORWARD", "-d", gateway_host.address, "-j", "DROP")
    bootstrap = start("bootstrap", *LISTEN, prefix=bootstrap_host.prefix)
    address = _address_at(bootstrap, bootstrap_host)
    gateway = _gateway(start, gateway_host, address)
    worker = _worker_behind_nat(start, worker_host, address)
    _wait_for_circuit(start, gateway_host, gateway, address, worker)

    assert bootstrap.daemon_pid is not None
    os.kill(bootstrap.daemon_pid, signal.SIGKILL)
    completion = _complete(gateway_host, gateway)
    assert completion.is_done
    assert completion.completion_tokens == TOKENS


def test_both_behind_nat(segment: Topology, start: Start) -> None:
    """A gateway at home, too: it reaches the worker through the relay, or past it when a hole could be punched."""
    bootstrap_host = segment.public_host()
    gateway_host, gateway_router = segment.host_behind_nat()
    worker_host, worker_router = segment.host_behind_nat()
    bootstrap = start("bootstrap", *LISTEN, prefix=bootstrap_host.prefix)
    address = _address_at(bootstrap, bootstrap_host)
    gateway = _gateway(start, gateway_host, address)
    _assert_unreachable(gateway_host, worker_host, worker_router)
    _assert_unreachable(worker_host, gateway_host, gateway_router)
    worker = _worker_behind_nat(start, worker_host, address)
    _wait_for_circuit(start, gateway_host, gateway, address, worker)
    for _ in range(2):  # the second one may find a direct connection
        completion = _complete(gateway_host, gateway)
        assert completion.is_done
        assert completion.completion_tokens == TOKENS


def test_the_doctor_tells_who_is_behind_nat(segment: Topology, start: Start) -> None:
    """Given a bootstrap with a public address, when the doctor runs on a public machine and on one behind NAT, then the
    bootstrap has dialled both back, and each is told what is so, and that the bootstrap relays."""
    bootstrap_host, public_host = segment.public_host(), segment.public_host()
    hidden_host, router = segment.host_behind_nat()
    address = _address_at(start("bootstrap", *LISTEN, prefix=bootstrap_host.prefix), bootstrap_host)

    public = _examined(start, public_host, address)
    assert public["nat"] == (
        "ok",
        f"public: peers see this machine at {public_host.address} and reach it there, by TCP and QUIC",
    )
    hidden = _examined(start, hidden_host, address)
    assert hidden["nat"] == (
        "warning",
        f"behind NAT: peers see this machine at {router.address} and cannot reach it there",
    )
    for found in (public, hidden):
        assert found["relay"] == ("ok", "1 of 1 peers would relay for this machine")


# ---- the machines and what runs on them


def _examined(start: Start, host: Host, address: str) -> dict[str, tuple[str, str]]:
    """The last verdict of each of the doctor's checks there."""
    flags = (*LISTEN, "--initial-peers", address, "--json")
    outcome = run("doctor", *flags, root=start.root, prefix=host.prefix)
    assert outcome.status == 0, outcome.stdout
    return {row["check"]: (row["level"], row["says"]) for row in json.loads(outcome.stdout)}


def _gateway(start: Start, host: Host, address: str) -> Process:
    arguments = ("gateway", "--port", "0", *LISTEN, "--initial-peers", address)
    return start(*arguments, prefix=host.prefix)


def _worker_behind_nat(start: Start, host: Host, address: str) -> Process:
    """What it says is written down: the network is looked at here."""
    script = start.root / "script.json"
    says = {"answers": [{"text": " ".join(f"word{n}" for n in range(TOKENS))}], "token_delay_s": TOKEN_DELAY_S}
    script.write_text(json.dumps([{"model": MODEL, **says}]))
    arguments = ("serve", "--script", str(script), *LISTEN, "--initial-peers", address)
    return start(*arguments, prefix=host.prefix)


def _address_at(process: Process, host: Host) -> str:
    """The address through which others on the segment join."""
    return next(address for address in process.ready.addresses if address.startswith(f"/ip4/{host.address}/tcp/"))


def _assert_unreachable(seeker: Host, hidden: Host, router: Host) -> None:
    """Nobody outside can open a connection to the hidden machine, nor to its router."""
    for target in (hidden.address, router.address):
        probe = subprocess.run(
            [*seeker.prefix, "curl", "-s", "--connect-timeout", "1", f"http://{target}:31337"],
            capture_output=True,
            check=False,
        )
        assert probe.returncode in (7, 28), f"{target} can be reached from outside"  # no route, or no answer


def _wait_for_circuit(
    start: Start, seeker: Host, gateway: Process, address: str, worker: Process
) -> dict[str, list[str]]:
    """The worker's record, once the directory has it with an address through a relay."""
    found: list[dict[str, list[str]]] = []

    def is_announced() -> bool:
        outcome = run("peers", "--json", "--initial-peers", address, root=start.root, prefix=seeker.prefix)
        assert outcome.status == 0, outcome.stderr
        records = [row["worker"] for row in json.loads(outcome.stdout)]
        found[:] = [record for record in records if record["peer_id"] == worker.ready.peer_id]
        return any("/p2p-circuit" in dialled for record in found for dialled in record["addresses"])

    worker.wait_ready()
    models = f"{gateway.ready.http}/v1/models"  # cheaper to ask again and again than the directory is
    wait_until(lambda: MODEL in seeker.run("curl", "-s", models), "the gateway lists the model")
    wait_until(is_announced, "the directory has the worker with a circuit address")
    return found[0]


# ---- requests


@dataclass
class Completion:
    """A streamed completion as curl saw it."""

    is_done: bool = False
    finish_reason: str | None = None
    completion_tokens: int = 0
    first_token_s: float = 0.0


def _complete(host: Host, gateway: Process) -> Completion:
    """Ask the gateway on `host`, on that same machine, for exactly TOKENS tokens."""
    body = {
        "model": MODEL,
        "prompt": "What is p2pnet?",
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    assert gateway.ready.http is not None
    url = f"{gateway.ready.http}/v1/completions"
    completion = Completion()
    command = [*host.prefix, "curl", "-sN", "--max-time", "120", url, "-d", json.dumps(body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        for line in curl.stdout:
            if line.startswith("data: "):
                _note(completion, line.removeprefix("data: ").strip())
            else:
                assert line.strip() == "" or line.startswith(":"), line  # a comment: that it waits, or that it is there
    return completion


def _note(completion: Completion, data: str) -> None:
    assert not completion.is_done
    if data == "[DONE]":
        completion.is_done = True
        return
    event = json.loads(data)
    assert "error" not in event, event
    completion.first_token_s = completion.first_token_s or time.monotonic()
    for choice in event["choices"]:
        completion.finish_reason = choice["finish_reason"]
    if event.get("usage"):
        completion.completion_tokens = event["usage"]["completion_tokens"]
