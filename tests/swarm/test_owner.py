"""Making swarms, inviting, joining and revoking, as files in a folder: what is kept, for whom, and what is refused."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from p2pnet.errors import UsageError
from p2pnet.swarm.folder import SwarmFolder
from p2pnet.swarm.invitation import read_invitation
from p2pnet.swarm.ledger import Ledger
from p2pnet.swarm.owner import (
    DAY_MS,
    OWN_DAYS,
    RENEWED_BEFORE_MS,
    Terms,
    create,
    invite,
    join,
    membership,
    revoke,
)
from p2pnet.swarm.register import Register
from p2pnet.swarm.revocations import MAX_REVOKED
from tests.stories import NOW_MS, address_of, peer
from tests.swarm.members import LAB

PEERS = (address_of(peer("bootstrap")),)
TERMS = Terms(days=30, join_days=3)


def at(now_ms: int) -> Callable[[], int]:
    return lambda: now_ms


@pytest.fixture
def owned(tmp_path: Path) -> SwarmFolder:
    folder = SwarmFolder(tmp_path / "owner", "lab")
    create(folder, PEERS, NOW_MS)
    return folder


def test_who_made_a_swarm_and_who_was_invited_are_members_of_one(owned: SwarmFolder, tmp_path: Path) -> None:
    line = invite(owned, "anna", TERMS, NOW_MS).to_line()
    annas = SwarmFolder(tmp_path / "anna", "lab")
    join(annas, read_invitation(line, NOW_MS), NOW_MS)
    by_owner, by_anna = (membership(folder, at(NOW_MS)).invitation for folder in (owned, annas))
    register = Register(by_owner.swarm_id, lambda: NOW_MS)
    for held in (by_owner, by_anna):
        assert (held.swarm_id, held.secret, held.initial_peers) == (by_owner.swarm_id, by_owner.secret, PEERS)
        assert register.has(held.certificate_for(peer("any").peer_id), peer("any").peer_id)
    assert by_owner.invitation_id != by_anna.invitation_id
    assert by_anna.expires_ms == NOW_MS + 30 * DAY_MS
    assert owned.ledger().note_of(by_anna.invitation_id) == "anna"


def test_nobody_else_reads_a_swarms_files(owned: SwarmFolder) -> None:
    invite(owned, "anna", TERMS, NOW_MS)
    revoke(owned, peer("bad").peer_id, NOW_MS)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in owned.path.iterdir()}
    assert modes.keys() == {"swarm.key", "invitation", "ledger.json", "revocations", ".ledger.json.lock"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(owned.path.stat().st_mode) == 0o700


def test_an_invitation_is_to_be_used_in_time(owned: SwarmFolder, tmp_path: Path) -> None:
    invitation = invite(owned, "anna", TERMS, NOW_MS)
    with pytest.raises(UsageError, match="used earlier"):
        join(SwarmFolder(tmp_path / "anna", "lab"), invitation, NOW_MS + 3 * DAY_MS)


def test_another_invitation_makes_a_membership_longer(owned: SwarmFolder, tmp_path: Path) -> None:
    annas = SwarmFolder(tmp_path / "anna", "lab")
    for now_ms in (NOW_MS, NOW_MS + 20 * DAY_MS):
        join(annas, invite(owned, "anna", TERMS, now_ms), now_ms)
        assert membership(annas, at(now_ms)).invitation.expires_ms == now_ms + 30 * DAY_MS


def test_a_membership_ends_but_for_who_has_the_swarms_key(owned: SwarmFolder, tmp_path: Path) -> None:
    annas = SwarmFolder(tmp_path / "anna", "lab")
    join(annas, invite(owned, "anna", TERMS, NOW_MS), NOW_MS)
    with pytest.raises(UsageError, match="has expired"):
        membership(annas, at(NOW_MS + 30 * DAY_MS))
    own = membership(owned, at(NOW_MS)).invitation
    before = NOW_MS + OWN_DAYS * DAY_MS - RENEWED_BEFORE_MS
    assert membership(owned, at(before)).invitation == own
    for late_ms in (before + 1, NOW_MS + 1000 * DAY_MS):
        renewed = membership(owned, at(late_ms)).invitation
        assert (renewed.invitation_id, renewed.expires_ms) == (own.invitation_id, late_ms + OWN_DAYS * DAY_MS)
        assert renewed.invitation_id in {each.invitation_id for each in owned.ledger().invitations}


def test_two_swarms_of_one_name(owned: SwarmFolder, tmp_path: Path) -> None:
    annas = SwarmFolder(tmp_path / "anna", "lab")
    join(annas, invite(owned, "anna", TERMS, NOW_MS), NOW_MS)
    before = annas.invitation(NOW_MS)
    other = msgspec.structs.replace(LAB.invitation(), join_by_ms=NOW_MS + 1)
    with pytest.raises(UsageError, match="Another swarm is called lab") as caught:
        join(annas, other, NOW_MS)
    assert "--name" in caught.value.fix
    assert annas.invitation(NOW_MS) == before
    with pytest.raises(UsageError, match="already"):
        create(annas, PEERS, NOW_MS)
    with pytest.raises(UsageError, match="already"):
        create(owned, PEERS, NOW_MS)
    with pytest.raises(UsageError, match="was made here"):
        join(owned, invite(owned, "me", TERMS, NOW_MS), NOW_MS)


def test_what_only_the_swarms_key_can_do(owned: SwarmFolder, tmp_path: Path) -> None:
    annas = SwarmFolder(tmp_path / "anna", "lab")
    join(annas, invite(owned, "anna", TERMS, NOW_MS), NOW_MS)
    for act in (lambda: invite(annas, "bob", TERMS, NOW_MS), lambda: revoke(annas, peer("bob").peer_id, NOW_MS)):
        with pytest.raises(UsageError, match="key of the swarm lab is not here"):
            act()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a" * 65, "a b", "lab\n"])
def test_what_a_swarm_cannot_be_called(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        SwarmFolder(tmp_path, name)


def test_a_swarm_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no swarm called lab") as caught:
        membership(SwarmFolder(tmp_path, "lab"), at(NOW_MS))
    assert "p2pnet swarm join" in caught.value.fix


def test_what_is_revoked_stays_so_until_it_would_have_ended(owned: SwarmFolder) -> None:
    first, second = (invite(owned, note, TERMS, NOW_MS) for note in ("anna", "bob"))
    bad = peer("bad").peer_id
    revoke(owned, first.invitation_id, NOW_MS)
    revoke(owned, bad, NOW_MS)
    held = membership(owned, at(NOW_MS))
    register = Register(held.invitation.swarm_id, lambda: NOW_MS)
    register.learn(held.kept_list.read())
    assert register.sequence == owned.ledger().sequence == NOW_MS + 1
    assert not register.has(first.certificate_for(peer("x").peer_id), peer("x").peer_id)
    assert not register.has(second.certificate_for(bad), bad)
    assert register.has(second.certificate_for(peer("x").peer_id), peer("x").peer_id)
    # An invitation's revocation leaves with it, a peer's with the last of all.
    revoke(owned, peer("other").peer_id, NOW_MS + 31 * DAY_MS)
    assert owned.ledger().revoked.keys() == {bad, peer("other").peer_id}


def test_what_cannot_be_revoked(owned: SwarmFolder) -> None:
    own = membership(owned, at(NOW_MS)).invitation.invitation_id
    for revoked_id, reason in (("anna", "neither a peer nor an invitation"), (own, "your own membership")):
        with pytest.raises(UsageError, match=reason):
            revoke(owned, revoked_id, NOW_MS)
    assert owned.ledger().revoked == {}
    full = Ledger(revoked={str(number): NOW_MS + 1 for number in range(MAX_REVOKED)})
    with pytest.raises(UsageError, match="no more can be"):
        full.without(peer("bad").peer_id, NOW_MS)
    assert len(full.without(peer("bad").peer_id, NOW_MS + 1).revoked) == 1


def test_an_old_ledger_revokes_nothing(owned: SwarmFolder) -> None:
    """It would make a list that is newer than the newest, and says less."""
    revoke(owned, peer("bad").peer_id, NOW_MS)
    owned.keep_ledger(Ledger())
    with pytest.raises(UsageError, match="More has been revoked"):
        revoke(owned, peer("other").peer_id, NOW_MS + 1)


def test_a_ledger_that_makes_no_sense_is_said(owned: SwarmFolder) -> None:
    (owned.path / "ledger.json").write_text("{")
    with pytest.raises(UsageError, match="makes no sense"):
        invite(owned, "anna", TERMS, NOW_MS)


def test_a_maker_who_has_lost_the_invitation_takes_one_that_was_made(owned: SwarmFolder) -> None:
    made, before = invite(owned, "anna", TERMS, NOW_MS), owned.invitation(NOW_MS)
    (owned.path / "invitation").unlink()
    with pytest.raises(UsageError, match="Another swarm"):
        join(owned, msgspec.structs.replace(LAB.invitation(), join_by_ms=NOW_MS + 1), NOW_MS)
    join(owned, made, NOW_MS + 5 * DAY_MS)
    assert invite(owned, "bob", TERMS, NOW_MS).secret == before.secret
