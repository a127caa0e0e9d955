"""Workers that nobody can dial, in network namespaces: they hold places at a relay and serve through it."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.nat.machines import (
    LISTEN,
    TOKENS,
    address_at,
    assert_unreachable,
    complete,
    on_this_machine,
    start_gateway,
    start_worker,
    wait_for_circuit,
)
from tests.nat.topology import Host, Topology
from tests.processes import Start, run

pytestmark = pytest.mark.timeout(300)

MAX_SECONDS = 30
"""From the start of the worker's process to the last token."""
LIBP2P_DEFAULT_CIRCUIT_BYTES = 128 << 10
"""Where a relay cuts a circuit, silently, unless it is told otherwise."""


def test_a_worker_behind_nat_serves_through_the_relay(segment: Topology, start: Start) -> None:
    """Given a bootstrap and a gateway with public addresses, and a worker behind a masquerading router that drops all
    inbound connections and lets it reach nobody but the bootstrap, when a client asks for 2,000 tokens, then they come,
    all of them, through the relay, within 30 s of the worker's start."""
    bootstrap_host, gateway_host = segment.public_host(), segment.public_host()
    worker_host, router = segment.host_behind_nat()
    # libp2p would have the worker dial the gateway, and leave the relay out of it.
    router.run("iptables", "-I", "FORWARD", "-d", gateway_host.address, "-j", "DROP")
    bootstrap = start("bootstrap", *LISTEN, prefix=bootstrap_host.prefix)
    address = address_at(bootstrap, bootstrap_host)
    gateway = start_gateway(start, gateway_host, address)
    assert_unreachable(gateway_host, worker_host, router)

    began_s = time.monotonic()
    worker = start_worker(start, worker_host, address)
    record = wait_for_circuit(start, gateway_host, gateway, address, worker)
    announced_s = time.monotonic() - began_s
    print("announced:", *record["addresses"])
    assert any(f"/p2p/{bootstrap.ready.peer_id}/p2p-circuit" in dialled for dialled in record["addresses"])

    relayed_before = bootstrap_host.received_bytes()
    completion = complete(gateway_host, gateway)
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
    assert took_s < on_this_machine(MAX_SECONDS)


def test_a_worker_behind_nat_finds_back_to_its_relay(segment: Topology, start: Start) -> None:
    """Given a worker that serves through a relay, when the relay's p2pd is killed, then the worker has a place at the
    next one soon, and the next request is served through it: libp2p would not ask again for an hour."""
    bootstrap_host, gateway_host = segment.public_host(), segment.public_host()
    worker_host, router = segment.host_behind_nat()
    router.run("iptables", "-I", "FORWARD", "-d", gateway_host.address, "-j", "DROP")
    bootstrap = start("bootstrap", *LISTEN, prefix=bootstrap_host.prefix)
    address = address_at(bootstrap, bootstrap_host)
    gateway = start_gateway(start, gateway_host, address)
    worker = start_worker(start, worker_host, address)
    wait_for_circuit(start, gateway_host, gateway, address, worker)

    assert bootstrap.daemon_pid is not None
    os.kill(bootstrap.daemon_pid, signal.SIGKILL)
    completion = complete(gateway_host, gateway)
    assert completion.is_done
    assert completion.completion_tokens == TOKENS


def test_both_behind_nat(segment: Topology, start: Start) -> None:
    """A gateway at home, too: it reaches the worker through the relay, or past it when a hole could be punched."""
    bootstrap_host = segment.public_host()
    gateway_host, gateway_router = segment.host_behind_nat()
    worker_host, worker_router = segment.host_behind_nat()
    bootstrap = start("bootstrap", *LISTEN, prefix=bootstrap_host.prefix)
    address = address_at(bootstrap, bootstrap_host)
    gateway = start_gateway(start, gateway_host, address)
    assert_unreachable(gateway_host, worker_host, worker_router)
    assert_unreachable(worker_host, gateway_host, gateway_router)
    worker = start_worker(start, worker_host, address)
    wait_for_circuit(start, gateway_host, gateway, address, worker)
    for _ in range(2):  # the second one may find a direct connection
        completion = complete(gateway_host, gateway)
        assert completion.is_done
        assert completion.completion_tokens == TOKENS


def test_the_doctor_tells_who_is_behind_nat(segment: Topology, start: Start) -> None:
    """Given a bootstrap with a public address, when the doctor runs on a public machine and on one behind NAT, then the
    bootstrap has dialled both back, and each is told what is so, and that the bootstrap relays."""
    bootstrap_host, public_host = segment.public_host(), segment.public_host()
    hidden_host, router = segment.host_behind_nat()
    address = address_at(start("bootstrap", *LISTEN, prefix=bootstrap_host.prefix), bootstrap_host)

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


# ---- what is looked at


def _examined(start: Start, host: Host, address: str) -> dict[str, tuple[str, str]]:
    """The last verdict of each of the doctor's checks there."""
    flags = (*LISTEN, "--initial-peers", address, "--json")
    outcome = run("doctor", *flags, root=start.root, prefix=host.prefix)
    assert outcome.status == 0, outcome.stdout
    return {row["check"]: (row["level"], row["says"]) for row in json.loads(outcome.stdout)}
