"""Routers at home that map ports for who asks them: a worker there is dialled like any with a public address."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.nat.machines import (
    MODEL,
    TOKENS,
    address_at,
    complete,
    reached,
    record_of,
    start_bootstrap,
    start_gateway,
    start_worker,
)
from tests.nat.results import note
from tests.nat.topology import Host, Topology
from tests.processes import Start, wait_until
from tests.requirements import requires_tools

pytestmark = pytest.mark.timeout(300)

MAPPED_S = 30.0
"""From the start of the worker's process: p2pd looks for a router for some seconds, and asks it for each port."""

MapPorts = Callable[[Host, Host, str], None]


@pytest.fixture
def map_ports(tmp_path: Path) -> Iterator[MapPorts]:
    """Have a router map ports for the machine behind it, when it is asked by one of two protocols."""
    requires_tools("miniupnpd", "iptables-legacy")
    with ExitStack() as running:

        def start(router: Host, host: Host, protocol: str) -> None:
            for table, hook, chain in (
                ("nat", "PREROUTING", "MINIUPNPD"),
                ("nat", "POSTROUTING", "MINIUPNPD-POSTROUTING"),
                ("filter", "FORWARD", "MINIUPNPD"),
            ):
                router.run("iptables-legacy", "-t", table, "-N", chain)
                router.run("iptables-legacy", "-t", table, "-A", hook, "-j", chain)
            router.run("iptables", "-I", "FORWARD", "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT")
            device = next(name for name in router.run("ls", "/sys/class/net").split() if name.startswith("lan"))
            config = tmp_path / "miniupnpd.conf"
            config.write_text(
                f"ext_ifname=eth0\next_ip={router.address}\nlistening_ip={device}\nhttp_port=5000\n"
                f"enable_natpmp={'yes' if protocol == 'NAT-PMP' else 'no'}\n"
                f"enable_upnp={'yes' if protocol == 'UPnP' else 'no'}\n"
                f"uuid=00000000-0000-0000-0000-000000000001\nallow 1-65535 {host.address}/32 1-65535\n"
            )
            command = [*router.prefix, "miniupnpd", "-d", "-f", str(config), "-P", str(tmp_path / "miniupnpd.pid")]
            log = running.enter_context((tmp_path / "miniupnpd.log").open("w"))
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            running.callback(process.wait)
            running.callback(process.terminate)

        yield start


@pytest.mark.deep
@pytest.mark.parametrize("protocol", ["UPnP", "NAT-PMP"])
def test_a_router_that_maps_ports(segment: Topology, start: Start, map_ports: MapPorts, protocol: str) -> None:
    relay_host, gateway_host = segment.public_host(), segment.public_host()
    worker_host, router = segment.host_behind_nat()
    map_ports(router, worker_host, protocol)
    address = address_at(start_bootstrap(start, relay_host), relay_host)
    gateway = start_gateway(start, gateway_host, address)
    worker = start_worker(start, worker_host, address)
    models = f"{gateway.ready.http}/v1/models"
    wait_until(lambda: MODEL in gateway_host.run("curl", "-s", models), "the gateway lists the model")

    def is_dialled() -> bool:
        named = record_of(start, gateway_host, address, worker)
        is_named = any(each.startswith(f"/ip4/{router.address}/") for each in named)
        return is_named and not any("/p2p-circuit" in each for each in named)

    wait_until(is_dialled, "others can dial it, and it needs no relay")
    took_s = time.monotonic() - worker.started_s
    note(f"the router maps ports by {protocol}: dialled", seconds=took_s)
    assert took_s < MAPPED_S
    wait_until(lambda: reached(gateway_host, gateway) == "direct", "the gateway dials it")
    before = relay_host.received_bytes()
    answer = complete(gateway_host, gateway)
    assert answer.completion_tokens == TOKENS
    assert relay_host.received_bytes() - before < len(answer.text)
