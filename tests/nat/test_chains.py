"""A chain with a stage that nobody can dial: rows come to it through a relay, from the driver and the stage before."""

from __future__ import annotations

import pytest

from tests.nat.machines import LISTEN, MODEL, address_at, complete, joining, start_bootstrap, start_gateway
from tests.nat.topology import Host, Nat, Topology
from tests.processes import Process, Start, wait_until

pytestmark = [pytest.mark.timeout(300), pytest.mark.deep]

TOKENS = 40


def test_a_stage_behind_nat_takes_part_through_a_relay(segment: Topology, start: Start) -> None:
    """Given the last layers behind one router, and driver and gateway behind another, when an answer is asked for, then
    all of it comes."""
    relay_host = segment.public_host()
    (home, _), (hidden, _) = segment.host_behind_nat(Nat.SYMMETRIC), segment.host_behind_nat(Nat.SYMMETRIC)
    relay = start_bootstrap(start, relay_host)
    relay.wait_ready()
    address = address_at(relay, relay_host)

    def begin(host: Host, port: int, *arguments: str) -> Process:
        return start(*arguments, "--listen", f"/ip4/0.0.0.0/tcp/{port}", *joining([address]), prefix=host.prefix)

    for host, port, layers in ((relay_host, 31338, "0:2"), (hidden, 31337, "2:4")):
        begin(host, port, "serve", "--model", "tiny", "--layers", layers)
    begin(home, 31338, "drive", "--model", "tiny", "--served-name", MODEL)
    gateway = start_gateway(start, home, address, flags=LISTEN)
    models = f"{gateway.ready.http}/v1/models"
    wait_until(lambda: MODEL in home.run("curl", "-s", models), "the gateway lists the chain's model")
    chained = complete(home, gateway, tokens=TOKENS)
    assert chained.is_done
    assert chained.completion_tokens == TOKENS
