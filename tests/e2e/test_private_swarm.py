"""A private swarm as its people have it, on a public bootstrap, as real processes: made, joined, used, left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.asking import models, open_stream
from tests.e2e.scripted import scripted
from tests.processes import Process, Start, processes, run, wait_until

pytestmark = pytest.mark.timeout(300)

TOKENS = 3000
LONG = "so " * TOKENS
TOKEN_DELAY_S = 0.05
"""An answer of two minutes and a half: it is under way for as long as a revocation may take."""


@dataclass(frozen=True)
class Swarm:
    """A public network of a bootstrap, a worker and a gateway, and a swarm on the same bootstrap: its maker runs a
    worker, and Anna, who was invited, a gateway."""

    start: Start
    address: str
    annas: dict[str, str]
    invitation_id: str
    public_worker: Process
    public_gateway: Process
    worker: Process
    gateway: Process


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with processes("private") as start:
        address = start.bootstrap().ready.address
        annas = {"P2PNET_DATA_DIR": str(start.root / "anna")}
        said(run("swarm", "create", "lab", "--initial-peers", address, root=start.root))
        line = said(run("swarm", "invite", "lab", "--for", "anna", root=start.root)).strip()
        said(run("swarm", "join", line, root=start.root, environment=annas))
        public_worker = scripted(start, address, "open", "hello")
        worker = scripted(start, address, "secret", LONG, "--swarm", "lab", token_delay_s=TOKEN_DELAY_S)
        public_gateway = start.gateway(peer=address)
        gateway = start("gateway", "--port", "0", "--swarm", "lab", "--wait-seconds", "1", environment=annas)
        for process in (public_worker, worker, public_gateway, gateway):
            process.wait_ready()
        ledger = json.loads((start.root / "data" / "swarms" / "lab" / "ledger.json").read_bytes())
        (annas_id,) = [each["invitation_id"] for each in ledger["invitations"] if each["note"] == "anna"]
        yield Swarm(start, address, annas, annas_id, public_worker, public_gateway, worker, gateway)


def said(outcome: Any) -> str:
    assert outcome.status == 0, outcome.stderr
    return str(outcome.stdout)


def listed(swarm: Swarm, *flags: str, environment: dict[str, str] | None = None) -> set[str]:
    outcome = run("models", "--json", *flags, root=swarm.start.root, environment=environment)
    return {row["id"] for row in json.loads(said(outcome))}


def test_each_network_sees_its_own(swarm: Swarm) -> None:
    wait_until(
        lambda: models(str(swarm.gateway.ready.http)) == ["secret"],
        "the swarm's gateway sees the swarm's worker, alone",
    )
    wait_until(
        lambda: models(str(swarm.public_gateway.ready.http)) == ["open"], "the public one sees the public one, alone"
    )
    assert listed(swarm, "--swarm", "lab") == {"secret"}
    assert listed(swarm, "--initial-peers", swarm.address) == {"open"}


def test_identities_of_a_swarm_are_its_own(swarm: Swarm) -> None:
    data = swarm.start.root / "data"
    assert (data / "worker.key").exists() and (data / "swarms" / "lab" / "worker.key").exists()
    assert Path(swarm.annas["P2PNET_DATA_DIR"], "swarms", "lab", "gateway.key").exists()


def test_who_is_left_out_is_cut_and_sees_nothing_any_more(swarm: Swarm) -> None:
    with open_stream(str(swarm.gateway.ready.http), "secret", TOKENS) as answer:
        # Given an answer that is under way, and members who see one another.
        answer.read_chunks(5)
        wait_until(lambda: swarm.gateway.ready.peer_id in members(swarm), "Anna's gateway is seen", timeout_s=90)
        # When Anna's invitation is revoked, then her answer ends within a minute, and is no whole one.
        assert "within a minute" in said(run("swarm", "revoke", "lab", swarm.invitation_id, root=swarm.start.root))
        wait_until(lambda: "no member of the swarm any more" in swarm.worker.log, "it is cut", timeout_s=60)
        answer.read_all()
        assert answer.finish_reason is None and answer.error is not None
    # And those who are left go on.
    assert listed(swarm, "--swarm", "lab") == {"secret"}
    assert swarm.gateway.ready.peer_id not in members(swarm)


def members(swarm: Swarm) -> set[str]:
    outcome = run("swarm", "members", "lab", "--json", root=swarm.start.root)
    return {member["peer_id"] for member in json.loads(said(outcome))["members"]}
