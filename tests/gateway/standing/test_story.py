"""A volunteer serves a gateway, claims its standing there, and waits less while its workers are full."""

from __future__ import annotations

import asyncio
import random
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.app import create_app
from gateway.http.access import Access
from gateway.membership.table import PeerTable
from gateway.receipts.witness import Witnesses
from gateway.service import GatewayService
from gateway.serving import Serving
from gateway.standing.book import MERITS_AGE_S, Book
from gateway.standing.desk import Desk
from gateway.standing.voucher import Voucher
from p2pnet.claims import claim_key
from p2pnet.config import WorkerConfig
from p2pnet.directory import Directory, validator
from p2pnet.identity import Identity
from p2pnet.network.memory import MemoryWorld
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.worker.backends.synthetic.echo import EchoBackend
from p2pnet.worker.serve import Worker
from tests.stories import ManualClock, peer, settle

WORDS = " ".join(["word"] * 100)
CALLERS = [f"192.0.2.{number}" for number in range(1, 7)]


@dataclass
class Site:
    """One gateway, and what its callers get."""

    identity: Identity
    clock: ManualClock
    serving: Serving
    book: Book
    app: FastAPI
    served: list[str] = field(default_factory=list)
    """Who had an answer, in order."""

    def key_of(self, volunteer: Identity) -> str:
        return claim_key(volunteer, self.identity.peer_id, self.clock(), self.clock() + 86_400_000)

    async def ask(self, address: str, key: str | None = None, method: str = "POST", path: str = "", **body: Any) -> Any:
        """`body` is that of a completion, unless a path is named."""
        transport = httpx.ASGITransport(self.app, client=(address, 1))
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
            asked = body or {"model": "echo", "prompt": WORDS, "max_tokens": 100}
            reply = await client.request(method, path or "/v1/completions", json=asked)
        assert reply.status_code == 200, reply.text
        self.served.append(address)
        return reply.json()


class Swarm:
    """Workers with one slot each, and gateways, in one memory world."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.signed: dict[str, bytes] = {}
        """The newest that a gateway has signed for each worker."""

    @asynccontextmanager
    async def worker(self, name: str, gate: asyncio.Event) -> AsyncIterator[Identity]:
        identity = peer(name)
        network = self.world.join(identity.peer_id)

        async def hold(index: int) -> None:
            await gate.wait()

        def keep(said: Acknowledgement, sealed: bytes) -> None:
            self.signed[said.worker] = sealed

        config = WorkerConfig(max_concurrency=1, drain_s=0)
        worker = await Worker.start(network, identity, [EchoBackend(gate=hold)], self.clock, config, keep=keep)
        try:
            yield identity
        finally:
            await worker.stop()
            await network.kill()

    @asynccontextmanager
    async def gateway(self, name: str, vouched_by: Identity | None = None) -> AsyncIterator[Site]:
        identity = peer(name)
        network = self.world.join(identity.peer_id)
        book = Book(unix_s=lambda: self.clock() / 1000)
        desk = Desk(identity.peer_id, book, self.clock)
        voucher = None if vouched_by is None else Voucher(vouched_by, identity.peer_id, self.clock)
        witnesses = Witnesses(identity.peer_id, identity, self.clock, book, voucher)
        table = PeerTable(Directory(network, self.clock), unix_s=lambda: self.clock() / 1000)
        async with Serving(network, table, rng=random.Random(1), witnesses=witnesses) as serving:
            await table.refresh()
            service = GatewayService(
                serving.dispatcher.run, serving.dispatcher.embed, table.models, lambda: True, standing=desk
            )
            app = create_app(service, access=Access(prove=desk.prove))
            yield Site(identity, self.clock, serving, book, app)
        await network.kill()


@pytest.mark.parametrize(("who", "place"), [("volunteer", 0), ("stranger", 5), (None, 5)])
async def test_who_has_given_is_served_sooner_where_all_is_full(who: str | None, place: int) -> None:
    """Given a volunteer whose worker has served five callers, when six wait and it comes last, then it is next; with a
    stranger's key, or none, it is last."""
    swarm, gate = Swarm(), asyncio.Event()
    gate.set()
    async with swarm.worker("volunteer", gate), swarm.gateway("gateway") as site:
        for caller in CALLERS[:5]:
            await site.ask(caller)
        key = None if who is None else site.key_of(peer(who))
        site.clock.advance(MERITS_AGE_S + 1)
        gate.clear()
        site.served.clear()
        running = [asyncio.create_task(site.ask(CALLERS[0]))]
        await settle(lambda: any(worker.in_flight for worker in site.serving.table.workers))
        for number, caller in enumerate([*CALLERS[1:], "198.51.100.1"], 1):
            running.append(asyncio.create_task(site.ask(caller, key if number == 6 else None)))
            await settle(lambda number=number: site.serving.admission.waiting("echo") == number)  # type: ignore[misc]
        gate.set()
        await asyncio.gather(*running)
        assert site.served[0] == CALLERS[0]
        assert site.served[1:].index("198.51.100.1") == place


async def test_idle_capacity_is_everybody_s() -> None:
    swarm, gate = Swarm(), asyncio.Event()
    gate.set()
    async with swarm.worker("volunteer", gate), swarm.gateway("gateway") as site:
        for _ in range(2):
            await site.ask("198.51.100.1")
        assert site.serving.admission.waiting_by_model() == {}


async def test_who_serves_a_volunteer_at_home_has_standing_where_the_volunteer_is_known() -> None:
    """Given Alice, whose worker serves a great gateway, and Bob, whose worker serves Alice's own, when Bob shows the
    great gateway what Alice's has signed, then it knows him; the words of Carl's gateway, which it does not know, say
    nothing."""
    swarm, gate = Swarm(), asyncio.Event()
    gate.set()
    alice, bob, carl = map(peer, ("alice", "bob", "carl"))
    async with swarm.gateway("great") as great:
        async with swarm.worker("alice", gate):
            await great.serving.table.refresh()
            for number in range(100):
                await great.ask(f"192.0.2.{number}")
        shown = {}
        async with (
            swarm.worker("bob", gate),
            swarm.gateway("home", alice) as home,
            swarm.gateway("carl's", carl) as other,
        ):
            for site in (other, home):
                for _ in range(40):
                    await site.ask("127.0.0.1")
                await settle(lambda: bob.peer_id in swarm.signed)
                shown[site.identity.peer_id] = swarm.signed.pop(bob.peer_id)
        great.clock.advance(MERITS_AGE_S + 1)
        key = great.key_of(bob)
        turns = []
        for site in (other, home):
            body = {"signed": [b64encode(shown[site.identity.peer_id]).decode()]}
            told = await great.ask("203.0.113.1", key, "POST", "/p2pnet/v1/standing", **body)
            turns.append(told["standing"]["turns"])
        assert turns == [1, 4]
