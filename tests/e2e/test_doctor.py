"""`p2pnet doctor` on a real swarm, with all well, and with a bootstrap that is dead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.processes import TCP_AND_QUIC_ON_LOOPBACK, Outcome, free_port, run
from tests.tiny_swarm import TinySwarm

pytestmark = pytest.mark.timeout(300)

NOBODY = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"


def examined(swarm: TinySwarm, *flags: str) -> Outcome:
    return run("doctor", *TCP_AND_QUIC_ON_LOOPBACK, *flags, root=swarm.start.root)


def levels(outcome: Outcome) -> dict[str, str]:
    """The worst level of each check."""
    found: dict[str, str] = {}
    rows: list[dict[str, Any]] = json.loads(outcome.stdout)
    for row in rows:
        found[row["check"]] = max(found.get(row["check"], "ok"), row["level"], key=("ok", "warning", "failed").index)
    return found


def test_all_is_well(tiny_swarm: TinySwarm) -> None:
    outcome = examined(tiny_swarm, "--initial-peers", tiny_swarm.address, "--gateway", tiny_swarm.url, "--json")
    assert (outcome.status, outcome.stderr) == (0, ""), outcome.stdout
    found = levels(outcome)
    for check in (
        "versions",
        "gpu",
        "gguf",
        "model",
        "ports",
        "p2pd",
        "bootstrap",
        "clock",
        "nat",
        "relay",
        "round trip",
        "gateway",
    ):
        assert found[check] == "ok", outcome.stdout
    assert {"disk", "memory"} <= set(found)


def test_a_dead_bootstrap_is_one_clear_line(tiny_swarm: TinySwarm) -> None:
    """What else there is to look at is looked at."""
    dead = f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{NOBODY}"
    outcome = examined(tiny_swarm, "--initial-peers", dead)
    assert outcome.status == 1
    lines = outcome.stdout.splitlines()
    (at,) = [index for index, line in enumerate(lines) if line.startswith("failed  bootstrap")]
    assert f"{dead} cannot be reached" in lines[at]
    assert "connection refused" in lines[at]
    assert lines[at + 1].strip().startswith("fix:") and "Check the address" in lines[at + 1]
    assert any(line.startswith("warning clock") for line in lines)
    assert any(line.startswith("ok      gpu") for line in lines)
    assert "Traceback" not in outcome.stderr
    both = examined(tiny_swarm, "--initial-peers", dead, "--initial-peers", tiny_swarm.address, "--json")
    assert both.status == 1
    assert levels(both) | {"disk": "", "memory": ""} == {
        **dict.fromkeys(
            ("versions", "gpu", "gguf", "model", "ports", "p2pd", "clock", "nat", "relay", "round trip"), "ok"
        ),
        **{"bootstrap": "failed", "disk": "", "memory": ""},
    }


def test_no_network_and_no_free_port(tiny_swarm: TinySwarm) -> None:
    outcome = run("doctor", "--listen", tiny_swarm.address.split("/p2p/")[0], root=tiny_swarm.start.root)
    assert outcome.status == 1
    assert "failed  bootstrap  There is no network to join" in outcome.stdout
    assert "failed  ports      nothing can listen on" in outcome.stdout
