"""A network that falls into two halves, each with a bootstrap, and comes together again by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest

from tests.nat.machines import address_at, complete, start_bootstrap, start_gateway, start_worker
from tests.nat.results import note
from tests.nat.topology import Host, Topology
from tests.processes import Process, Start, wait_until

pytestmark = [pytest.mark.timeout(500), pytest.mark.deep]


def keep_apart(one_half: Sequence[Host], other_half: Sequence[Host], do: str) -> None:
    """Let nothing through between them (`-I`), or everything again (`-D`)."""
    for hosts, others in ((one_half, other_half), (other_half, one_half)):
        for host in hosts:
            for other in others:
                host.run("iptables", do, "INPUT", "-s", other.address, "-j", "DROP")


@pytest.mark.parametrize(("apart_s", "limit_s"), [(60, 10), (240, 30)])
def test_two_halves_come_together(segment: Topology, start: Start, apart_s: int, limit_s: int) -> None:
    """Each half has a bootstrap, a worker and a gateway, which all know both bootstraps."""
    halves: list[list[Host]] = [[segment.public_host() for _ in range(3)] for _ in range(2)]
    bootstraps: list[Process] = []
    for half in halves:
        known = [address_at(each, halves[number][0]) for number, each in enumerate(bootstraps)]
        bootstraps.append(start_bootstrap(start, half[0], *(word for at in known for word in ("--initial-peers", at))))
    addresses = [address_at(each, half[0]) for each, half in zip(bootstraps, halves, strict=True)]
    workers, gateways = [], []
    for half in halves:
        workers.append(start_worker(start, half[1], *addresses))
        gateways.append(start_gateway(start, half[2], *addresses))
    for half, gateway in zip(halves, gateways, strict=True):
        wait_until(lambda half=half, gateway=gateway: workers_seen(half[2], gateway) == 2, "each sees both workers")

    keep_apart(*halves, "-I")
    time.sleep(apart_s)
    for half, gateway in zip(halves, gateways, strict=True):
        assert complete(half[2], gateway, tokens=5).is_done, "each half goes on by itself"
    keep_apart(*halves, "-D")
    began_s = time.monotonic()
    for half, gateway in zip(halves, gateways, strict=True):
        wait_until(lambda half=half, gateway=gateway: workers_seen(half[2], gateway) == 2, "both workers are back")
    took_s = time.monotonic() - began_s
    note(f"two halves were apart for {apart_s} s", seconds=took_s)
    assert took_s <= limit_s


def workers_seen(host: Host, gateway: Process) -> int:
    """How many workers a gateway would give a request to."""
    overview = json.loads(host.run("curl", "-s", f"{gateway.ready.http}/p2pnet/v1/overview"))
    return sum(worker["state"] == "healthy" for worker in overview["workers"]["workers"])
