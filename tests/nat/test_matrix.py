"""Workers behind every kind of NAT, as a newcomer starts them: without a flag they are served, 10 MB intact.

Each cell says how the bytes went, which is told by what has arrived at the relay's network card; and the gateway has to
say the same. The same goes for the members of a private swarm, on a bootstrap that is none.
"""

from __future__ import annotations

import time
from hashlib import sha256

import pytest

from tests.nat.machines import (
    LISTEN,
    MODEL,
    NUMBERS,
    SERVED_S,
    address_at,
    book,
    complete,
    on_this_machine,
    reached,
    start_bootstrap,
    start_gateway,
    start_worker,
)
from tests.nat.results import note
from tests.nat.topology import Nat, Topology
from tests.processes import Start, run, wait_until

pytestmark = pytest.mark.timeout(300)

WORKERS: dict[str, Nat | None] = {"open": None, **{nat.value: nat for nat in Nat}}
GATEWAYS: dict[str, Nat | None] = {"open": None, "cone": Nat.CONE, "symmetric": Nat.SYMMETRIC}
HOLES = {("cone", "cone"), ("double", "cone"), *((worker, "open") for worker in WORKERS if worker != "only_443")}
"""Where one can be punched: one end is sent to the port that others have seen, or to an open one, by TCP where UDP is
dropped. A router of these lets in nobody else but who was asked at that address and port."""

SWARM = "lab"
IN_EACH_RUN = (
    "worker_cone_gateway_open",
    "worker_only_443_gateway_cone",
    f"worker_cone_gateway_symmetric_{SWARM}",
)
CELLS = [
    pytest.param(worker, gateway, swarm, id=name, marks=[] if name in IN_EACH_RUN else [pytest.mark.deep])
    for swarm in ("", SWARM)
    for worker in WORKERS
    for gateway in GATEWAYS
    for name in [f"worker_{worker}_gateway_{gateway}{swarm and '_' + swarm}"]
]


@pytest.mark.parametrize(("worker_kind", "gateway_kind", "swarm"), CELLS)
def test_cell(segment: Topology, start: Start, worker_kind: str, gateway_kind: str, swarm: str) -> None:
    relay_host = segment.public_host()
    relay = start_bootstrap(start, relay_host, "--listen", "/ip4/0.0.0.0/tcp/443")
    gateway_host, worker_host = segment.host(GATEWAYS[gateway_kind]), segment.host(WORKERS[worker_kind])
    port = 443 if WORKERS[worker_kind] is Nat.ONLY_443 else 31337
    address = address_at(relay, relay_host, port)
    flags: tuple[str, ...] = LISTEN
    if swarm:
        created = ("swarm", "create", swarm, "--initial-peers", address)
        made = run(*created, root=start.root, prefix=worker_host.prefix)
        assert made.status == 0, made.stderr
        flags = (*LISTEN, "--swarm", swarm)
    gateway = start_gateway(start, gateway_host, address_at(relay, relay_host), flags=flags)
    models = f"{gateway.ready.http}/v1/models"
    text = book()

    worker = start_worker(start, worker_host, address, text=text, token_delay_s=0.0, flags=flags)
    wait_until(lambda: MODEL in gateway_host.run("curl", "-s", models), "the gateway lists the model")
    before, asked_s = relay_host.received_bytes(), time.monotonic()
    answer = complete(gateway_host, gateway, tokens=NUMBERS)
    took_s = time.monotonic() - asked_s
    first_s = answer.first_token_s - worker.started_s
    is_relayed = relay_host.received_bytes() - before > len(text)
    way = "relayed" if is_relayed else "direct" if worker_kind == "open" else "punched"
    story = "private cell" if swarm else "cell"
    note(story, worker=worker_kind, gateway=gateway_kind, way=way, first_s=first_s, took_s=took_s)
    assert answer.is_done
    assert (answer.finish_reason, len(answer.text)) == ("length", len(text))
    assert sha256(answer.text.encode()).hexdigest() == sha256(text.encode()).hexdigest()
    assert first_s <= on_this_machine(SERVED_S)
    assert is_relayed == (worker_kind != "open" and (worker_kind, gateway_kind) not in HOLES)
    wait_until(lambda: reached(gateway_host, gateway) == way, f"the gateway says that it is {way}")
