"""A private swarm whose worker and gateway nobody can dial, on a bootstrap that is no member."""

from __future__ import annotations

import json

import pytest

from tests.nat.machines import LISTEN, MODEL, TOKENS, WORDS, address_at, complete, reached, start_bootstrap
from tests.nat.topology import Nat, Topology
from tests.processes import Start, run, wait_until

pytestmark = [pytest.mark.timeout(300), pytest.mark.deep]


@pytest.mark.parametrize(("nat", "way"), [(Nat.CONE, "punched"), (Nat.SYMMETRIC, "relayed")])
def test_a_swarm_behind_nat(segment: Topology, start: Start, nat: Nat, way: str) -> None:
    """Through the relay, and past it where a hole can be punched."""
    bootstrap_host = segment.public_host()
    (worker_host, _), (gateway_host, _) = segment.host_behind_nat(nat), segment.host_behind_nat(Nat.CONE)
    address = address_at(start_bootstrap(start, bootstrap_host), bootstrap_host)
    made = run("swarm", "create", "lab", "--initial-peers", address, root=start.root, prefix=worker_host.prefix)
    assert made.status == 0, made.stderr
    script = start.root / "script.json"
    script.write_text(json.dumps([{"model": MODEL, "answers": [{"text": WORDS}], "context_length": 2 * TOKENS}]))
    gateway = start("gateway", "--port", "0", "--swarm", "lab", *LISTEN, prefix=gateway_host.prefix)
    start("serve", "--script", str(script), "--swarm", "lab", *LISTEN, prefix=worker_host.prefix).wait_ready()
    models = f"{gateway.ready.http}/v1/models"
    wait_until(lambda: MODEL in gateway_host.run("curl", "-s", models), "the gateway lists the model")
    before = bootstrap_host.received_bytes()
    answer = complete(gateway_host, gateway)
    assert (answer.is_done, answer.completion_tokens) == (True, TOKENS)
    is_relayed = bootstrap_host.received_bytes() - before > len(answer.text)
    assert is_relayed == (way == "relayed")
    wait_until(lambda: reached(gateway_host, gateway) == way, f"the gateway says that it is {way}")
