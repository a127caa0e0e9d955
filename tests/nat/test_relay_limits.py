"""Answers that are longer than what a relay carries in one circuit."""

from __future__ import annotations

import sys
from hashlib import sha256

import pytest

from tests.nat.machines import MODEL, address_at, complete, start_gateway, start_worker
from tests.nat.results import note
from tests.nat.topology import Nat, Topology
from tests.processes import Start, wait_until

pytestmark = [pytest.mark.timeout(300), pytest.mark.deep]

CUT_AFTER_BYTES = 3 << 20
TOKENS = 16_000
TOKEN_BYTES = 250
GAP_S = 2.0
"""As after a relay that has died."""


def test_an_answer_goes_on_over_one_circuit_after_another(segment: Topology, start: Start) -> None:
    """Given one relay that cuts each circuit after three mebibytes, and no way past it, when an answer has four,
    then it comes whole, and is never silent for long."""
    relay_host = segment.public_host()
    (worker_host, _), (gateway_host, _) = segment.host_behind_nat(Nat.SYMMETRIC), segment.host_behind_nat(Nat.CONE)
    command = (sys.executable, "-m", "tests.nat.small_relay", "--data-bytes", str(CUT_AFTER_BYTES))
    relay = start.program(*command, name="relay", prefix=relay_host.prefix)
    relay.wait_ready()
    address = address_at(relay, relay_host)
    gateway = start_gateway(start, gateway_host, address)
    text = "".join(str(number).rjust(TOKEN_BYTES) for number in range(TOKENS))
    start_worker(start, worker_host, address, text=text, token_delay_s=0.0)
    models = f"{gateway.ready.http}/v1/models"
    wait_until(lambda: MODEL in gateway_host.run("curl", "-s", models), "the gateway lists the model")
    answer = complete(gateway_host, gateway, tokens=TOKENS)
    note("a relay cuts each circuit after 3 MiB, in mid-stream", seconds=answer.longest_gap_s)
    assert answer.is_done
    assert sha256(answer.text.encode()).hexdigest() == sha256(text.encode()).hexdigest()
    assert answer.longest_gap_s <= GAP_S
