"""`p2pnet keys claim`: the key that is printed, what is shown to a gateway, and what is said where that cannot be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.http.access import Access
from gateway.http.server import serve_http
from gateway.receipts.witness import unix_ms
from gateway.standing.book import Book
from gateway.standing.desk import Desk
from p2pnet.claims import read_claim
from p2pnet.cli.claiming import MadeKey, make_key, show, to_show
from p2pnet.cli.gateway import volunteer
from p2pnet.errors import UsageError
from p2pnet.identity import Identity
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.receipts.statement import seal_statement
from p2pnet.receipts.vouch import VOUCH_LIFETIME_MS, Vouch
from p2pnet.worker.given.file import Signed, write
from tests.gateway.fake_generate import FakeGenerate, service
from tests.processes import run
from tests.stories import peer

GATEWAY, ALICE, HOME, BOB = map(peer, ("gateway", "alice", "alice's gateway", "bob"))


@pytest.fixture
def identity_file(tmp_path: Path) -> Path:
    BOB.save(tmp_path / "worker.key")
    return tmp_path / "worker.key"


def said(gateway: Identity = HOME, worker: Identity = BOB, has_vouch: bool = True, total: int = 4000) -> bytes:
    now_ms = unix_ms()
    vouch = seal_statement(Vouch(ALICE.peer_id, gateway.peer_id, now_ms + VOUCH_LIFETIME_MS), ALICE)
    return seal_statement(
        Acknowledgement(
            gateway.peer_id,
            worker.peer_id,
            bytes(32),
            bytes(32),
            "tiny",
            "received",
            now_ms,
            total=total,
            vouch=vouch if has_vouch else b"",
        ),
        gateway,
    )


def given_file(folder: Path, *sealed: bytes) -> Path:
    path = folder / "given.sqlite3"
    write(path, [Signed("2026-W48", BOB.peer_id, "tiny", HOME.peer_id, 3, each) for each in sealed])
    return path


def test_a_key_is_made_with_the_worker_s_identity(identity_file: Path) -> None:
    made = make_key(GATEWAY.peer_id, identity_file, 7, None)
    claim = read_claim(made.key, GATEWAY.peer_id, unix_ms())
    assert (made.worker, claim.peer) == (BOB.peer_id, BOB.peer_id)
    assert claim.expires_ms - claim.issued_ms == 7 * 86_400_000
    both = make_key(GATEWAY.peer_id, identity_file, 7, "sk-p2pnet-own")
    assert both.key.startswith("sk-p2pnet-own~sk-p2pnet-standing-")


def test_a_worker_vouches_with_its_key_file_or_it_is_said_which_flag_is_wrong(identity_file: Path) -> None:
    assert volunteer(identity_file).peer_id == BOB.peer_id
    with pytest.raises(UsageError, match="cannot be read") as missing:
        volunteer(identity_file.with_name("other.key"))
    assert "--vouched-by" in missing.value.fix


def test_of_each_other_gateway_that_somebody_vouches_for_the_newest_is_shown() -> None:
    made = MadeKey("key", GATEWAY.peer_id, BOB.peer_id)
    newest, older, other = said(total=9), said(total=8), said(peer("other"))
    not_shown = [said(GATEWAY), said(worker=ALICE), said(peer("third"), has_vouch=False), b"no statement"]
    assert to_show([*not_shown, newest, older, other], made) == [newest, other]
    assert len(to_show([said(peer(f"gateway {number}")) for number in range(20)], made)) == 16


@pytest.fixture
async def gateway() -> AsyncIterator[str]:
    """At which Alice's worker has given something."""
    book = Book()
    for caller in range(100):
        book.note(ALICE.peer_id, f"caller {caller}", 1000)
    desk = Desk(GATEWAY.peer_id, book, unix_ms)
    app = create_app(replace(service(FakeGenerate()), standing=desk), access=Access(prove=desk.prove))
    server = await serve_http(app, "127.0.0.1", 0)
    yield server.url
    await server.stop(drain_s=0)


async def test_a_gateway_is_shown_what_others_have_signed(gateway: str, identity_file: Path) -> None:
    made = make_key(GATEWAY.peer_id, identity_file, 1, None)
    nothing = await asyncio.to_thread(show, made, gateway, identity_file.parent / "nothing.sqlite3")
    assert nothing.startswith("It was shown the word of 0 other gateways. It has received 0 tokens from you; you")
    told = await asyncio.to_thread(show, made, gateway, given_file(identity_file.parent, said()))
    assert "4 turns for one of others'" in told


async def test_what_a_gateway_refuses_is_said(gateway: str, identity_file: Path) -> None:
    elsewhere = make_key(HOME.peer_id, identity_file, 1, None)
    with pytest.raises(UsageError, match=r"did not take it: .*is for the gateway"):
        await asyncio.to_thread(show, elsewhere, gateway, identity_file.parent / "nothing.sqlite3")
    made = make_key(GATEWAY.peer_id, identity_file, 1, None)
    with pytest.raises(UsageError, match=r"did not take it: .*Unknown URL"):  # as one of an earlier version says
        await asyncio.to_thread(show, made, f"{gateway}/else", identity_file.parent / "nothing.sqlite3")
    with pytest.raises(UsageError, match="There is no gateway at"):
        await asyncio.to_thread(show, elsewhere, "http://127.0.0.1:1", identity_file.parent / "nothing.sqlite3")


def test_the_command_prints_the_key_alone_and_says_what_cannot_be_done(tmp_path: Path) -> None:
    BOB.save(tmp_path / "data" / "worker.key")
    outcome = run("keys", "claim", GATEWAY.peer_id, root=tmp_path)
    assert outcome.status == 0 and outcome.stderr.startswith("Whoever has this key")
    assert read_claim(outcome.stdout.strip(), GATEWAY.peer_id, time.time_ns() // 1_000_000).peer == BOB.peer_id
    for arguments, sentence in (
        (("gateway",), "is no peer id of a gateway"),
        ((GATEWAY.peer_id, "--identity", str(tmp_path / "other.key")), "There is no worker's identity at"),
    ):
        outcome = run("keys", "claim", *arguments, root=tmp_path)
        assert outcome.status == 1 and outcome.stdout == ""
        assert sentence in outcome.stderr and "Traceback" not in outcome.stderr
