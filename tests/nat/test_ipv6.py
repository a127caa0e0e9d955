"""Peers with IPv6 beside IPv4, and with nothing else: directly over it where it lets them in, through relays that have
both where they share neither.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest

from tests.nat.machines import (
    LISTEN,
    LISTEN6,
    MODEL,
    NUMBERS,
    SERVED_S,
    TOKENS,
    address6_at,
    address_at,
    book,
    complete,
    joining,
    on_this_machine,
    reached,
    start_bootstrap,
    start_gateway,
    start_worker,
)
from tests.nat.results import note
from tests.nat.topology import Host, Nat, Topology
from tests.processes import Process, Start, run, wait_until

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Kind:
    """What a machine has: IPv4 behind this, or public, or none at all; and IPv6 that lets strangers in, or does not."""

    ip4: Nat | None = None
    has_ip4: bool = True
    ip6: str = "none"

    def host(self, segment: Topology) -> Host:
        router = None
        if self.ip4 is None:
            host = segment.public_host()
        else:
            host, router = segment.host_behind_nat(self.ip4)
        if self.ip6 != "none":
            host = segment.with_ip6(host, router, is_open=self.ip6 == "open")
        if not self.has_ip4:
            host.has_no_ip4()
        return host

    @property
    def listen(self) -> tuple[str, ...]:
        return LISTEN if self.ip6 == "none" else (*LISTEN, *LISTEN6)

    def joining(self, first: str, first6: str, second: str, second6: str) -> tuple[str, ...]:
        """Two bootstraps: the second over IPv6, where there is both."""
        if self.ip6 == "none":
            return (first, second)
        return (first, second6) if self.has_ip4 else (first6, second6)


KINDS = {
    "open": Kind(),
    "cone": Kind(Nat.CONE),
    "open, IPv6": Kind(ip6="open"),
    "cone, IPv6": Kind(Nat.CONE, ip6="open"),
    "cone, IPv6 behind a firewall": Kind(Nat.CONE, ip6="firewall"),
    "IPv6 alone": Kind(has_ip4=False, ip6="open"),
}
CELLS = [
    pytest.param("cone, IPv6", "open, IPv6", "direct", id="worker_open_over_ipv6"),
    pytest.param("cone, IPv6", "open", "direct", id="gateway_without_ipv6", marks=pytest.mark.deep),
    pytest.param(*["cone, IPv6 behind a firewall"] * 2, "punched", id="both_behind_firewalls", marks=pytest.mark.deep),
    pytest.param("open, IPv6", "IPv6 alone", "direct", id="gateway_without_ipv4", marks=pytest.mark.deep),
    pytest.param("IPv6 alone", "open, IPv6", "direct", id="worker_without_ipv4", marks=pytest.mark.deep),
    pytest.param("IPv6 alone", "open", "relayed", id="nothing_in_common"),
    pytest.param("open", "IPv6 alone", "relayed", id="worker_that_is_open_has_ipv4_alone", marks=pytest.mark.deep),
    pytest.param("cone", "IPv6 alone", "relayed", id="worker_behind_nat_has_ipv4_alone", marks=pytest.mark.deep),
    pytest.param("IPv6 alone", "IPv6 alone", "direct", id="nobody_has_ipv4", marks=pytest.mark.deep),
]


def start_relays(segment: Topology, start: Start) -> tuple[list[Host], list[str]]:
    """Two that have both: their machines, and the addresses of each over IPv4 and IPv6."""
    hosts = [KINDS["open, IPv6"].host(segment) for _ in range(2)]
    relays: list[Process] = []
    for number, host in enumerate(hosts):
        others = joining([address_at(each, hosts[0]) for each in relays])
        identity = ("--identity", str(start.root / f"relay-{number}.key"))
        relays.append(start_bootstrap(start, host, *LISTEN6, *identity, *others))
    return hosts, [at(*each) for each in zip(relays, hosts, strict=True) for at in (address_at, address6_at)]


@pytest.mark.parametrize(("worker_kind", "gateway_kind", "way"), CELLS)
def test_cell(segment: Topology, start: Start, worker_kind: str, gateway_kind: str, way: str) -> None:
    relay_hosts, addresses = start_relays(segment, start)
    workers, gateways = KINDS[worker_kind], KINDS[gateway_kind]
    gateway_host, worker_host = gateways.host(segment), workers.host(segment)
    gateway = start_gateway(start, gateway_host, *gateways.joining(*addresses), flags=gateways.listen)
    through, text = workers.joining(*addresses), book()
    worker = start_worker(start, worker_host, *through, text=text, token_delay_s=0.0, flags=workers.listen)
    models = f"{gateway.ready.http}/v1/models"
    wait_until(lambda: MODEL in gateway_host.run("curl", "-s", models), "the gateway lists the model")
    asked_s = time.monotonic()
    answer = complete(gateway_host, gateway, tokens=NUMBERS)
    took_s = time.monotonic() - asked_s
    first_s = answer.first_token_s - worker.started_s
    assert (answer.is_done, answer.text == text) == (True, True)
    assert first_s <= on_this_machine(SERVED_S)

    def goes_so() -> bool:
        """The first answer may go through a relay where a worker names an address that the gateway cannot dial."""
        before = sum(host.received_bytes() for host in relay_hosts)
        again = complete(gateway_host, gateway, tokens=TOKENS)
        assert again.is_done
        is_relayed = sum(host.received_bytes() for host in relay_hosts) - before > len(again.text)
        return is_relayed == (way == "relayed") and reached(gateway_host, gateway) == way

    wait_until(goes_so, f"the bytes go so, and the gateway says so: {way}")
    note("cell", worker=worker_kind, gateway=gateway_kind, way=way, first_s=first_s, took_s=took_s)


@pytest.mark.deep
def test_the_doctor_tells_of_both(segment: Topology, start: Start) -> None:
    """Behind NAT over IPv4, and open over IPv6."""
    kind = KINDS["cone, IPv6"]
    _, addresses = start_relays(segment, start)
    host = kind.host(segment)
    flags = (*kind.listen, *joining(kind.joining(*addresses)), "--json")
    outcome = run("doctor", *flags, root=start.root, prefix=host.prefix)
    assert outcome.status == 0, outcome.stdout
    found = [(row["level"], row["says"]) for row in json.loads(outcome.stdout) if row["check"] == "nat"]
    assert [level for level, _ in found] == ["warning", "ok"]
    assert "behind NAT" in found[0][1]
    assert host.address6 in found[1][1]
