"""`p2pnet doctor` on a real swarm, with all well, and with a bootstrap that is dead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.processes import TCP_AND_QUIC_ON_LOOPBACK, Outcome, Start, free_port, processes, run, wait_until

pytestmark = pytest.mark.timeout(300)

NOBODY = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"


@dataclass(frozen=True)
class Swarm:
    start: Start
    address: str
    gateway: str

    def examined(self, *flags: str) -> Outcome:
        return run("doctor", *TCP_AND_QUIC_ON_LOOPBACK, *flags, root=self.start.root)


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with processes("doctor") as start:
        address = start.bootstrap().ready.address
        worker = start.worker("--model", "tiny", "--kv-memory", "32MB", peer=address)
        gateway = start.gateway(peer=address).ready.http
        worker.wait_ready()
        assert gateway is not None
        wait_until(lambda: '"tiny"' in httpx.get(f"{gateway}/v1/models").text, "the gateway has found the worker")
        yield Swarm(start, address, gateway)


def levels(outcome: Outcome) -> dict[str, str]:
    """The worst level of each check."""
    found: dict[str, str] = {}
    rows: list[dict[str, Any]] = json.loads(outcome.stdout)
    for row in rows:
        found[row["check"]] = max(found.get(row["check"], "ok"), row["level"], key=("ok", "warning", "failed").index)
    return found


def test_all_is_well(swarm: Swarm) -> None:
    outcome = swarm.examined("--initial-peers", swarm.address, "--gateway", swarm.gateway, "--json")
    assert (outcome.status, outcome.stderr) == (0, ""), outcome.stdout
    found = levels(outcome)
    for check in ("versions", "gpu", "ports", "p2pd", "bootstrap", "clock", "nat", "relay", "round trip", "gateway"):
        assert found[check] == "ok", outcome.stdout
    assert {"disk", "memory"} <= set(found)


def test_a_dead_bootstrap_is_one_clear_line(swarm: Swarm) -> None:
    """What else there is to look at is looked at."""
    dead = f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{NOBODY}"
    outcome = swarm.examined("--initial-peers", dead)
    assert outcome.status == 1
    lines = outcome.stdout.splitlines()
    (at,) = [index for index, line in enumerate(lines) if line.startswith("failed  bootstrap")]
    assert f"{dead} cannot be reached" in lines[at]
    assert "connection refused" in lines[at]
    assert lines[at + 1].strip().startswith("fix:") and "Check the address" in lines[at + 1]
    assert any(line.startswith("warning clock") for line in lines)
    assert any(line.startswith("ok      gpu") for line in lines)
    assert "Traceback" not in outcome.stderr
    both = swarm.examined("--initial-peers", dead, "--initial-peers", swarm.address, "--json")
    assert both.status == 1
    assert levels(both) | {"disk": "", "memory": ""} == {
        **dict.fromkeys(("versions", "gpu", "ports", "p2pd", "clock", "nat", "relay", "round trip"), "ok"),
        **{"bootstrap": "failed", "disk": "", "memory": ""},
    }


def test_no_network_and_no_free_port(swarm: Swarm) -> None:
    outcome = run("doctor", "--listen", swarm.address.split("/p2p/")[0], root=swarm.start.root)
    assert outcome.status == 1
    assert "failed  bootstrap  There is no network to join" in outcome.stdout
    assert "failed  ports      nothing can listen on" in outcome.stdout
