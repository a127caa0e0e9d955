"""What may be done with a swarm's key, and how one becomes a member: creates swarms, invites, joins, revokes.

Acts on folders alone. Knows nothing of the network; the time is passed in.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import msgspec

from p2pnet.errors import UsageError
from p2pnet.identity import Identity
from p2pnet.network.interface import Clock
from p2pnet.swarm.certificates import delegate
from p2pnet.swarm.folder import SwarmFolder
from p2pnet.swarm.invitation import MAX_INITIAL_PEERS, Invitation, new_invitation
from p2pnet.swarm.ledger import Ledger
from p2pnet.swarm.membership import Membership
from p2pnet.swarm.revocations import seal_revocations
from p2pnet.swarm.secret import SECRET_BYTES

DAY_MS = 86_400_000

OWN_NOTE = "(where the swarm was made)"
OWN_DAYS = 90
RENEWED_BEFORE_MS = 30 * DAY_MS
"""Where the swarm's key is, one's own membership is made longer before it ends."""


@dataclass(frozen=True)
class Terms:
    """How long an invitation is good for."""

    days: float = 90
    """Until the memberships that come of it end."""
    join_days: float = 7
    """Until it is to be used."""


def create(folder: SwarmFolder, initial_peers: tuple[str, ...], now_ms: int) -> None:
    """Make a swarm, and become its first member. Raises UsageError when there is one of this name."""
    if folder.exists:
        raise UsageError(f"There is a swarm called {folder.name} already.", "Choose another name.")
    key = Identity.generate()
    folder.keep_swarm_key(key)
    expires_ms = now_ms + OWN_DAYS * DAY_MS
    secret = secrets.token_bytes(SECRET_BYTES)
    own = new_invitation(key, folder.name, secret, initial_peers[:MAX_INITIAL_PEERS], expires_ms, now_ms)
    folder.keep_ledger(Ledger().with_invitation(own, OWN_NOTE))
    folder.keep_invitation(own)


def invite(folder: SwarmFolder, note: str, terms: Terms, now_ms: int) -> Invitation:
    """Make another invitation, and note it. Raises UsageError where the swarm was not made here."""
    key, own = folder.swarm_key(), _own_invitation(folder, now_ms)
    expires_ms = now_ms + round(terms.days * DAY_MS)
    join_by_ms = min(expires_ms, now_ms + round(terms.join_days * DAY_MS))
    invitation = new_invitation(key, own.name, own.secret, own.initial_peers, expires_ms, join_by_ms)
    with folder.locked():
        folder.keep_ledger(folder.ledger().with_invitation(invitation, note))
    return invitation


def join(folder: SwarmFolder, invitation: Invitation, now_ms: int) -> None:
    """Become a member, or stay one for longer. Raises UsageError when the invitation is used too late, or the folder is
    another swarm's. The one that is held already is joined by again at any time, and changes nothing."""
    if folder.exists and folder.invitation(now_ms=0) == invitation:
        return
    if invitation.join_by_ms <= now_ms and not folder.has_key:
        raise UsageError("This invitation was to be used earlier.", "Ask for another one.")
    if _swarm_id(folder) not in (None, invitation.swarm_id):
        raise UsageError(f"Another swarm is called {folder.name} here.", "Give this one another name with --name.")
    if folder.has_key and folder.exists:
        raise UsageError(f"The swarm {folder.name} was made here: you are its member.", "Nothing needs to be done.")
    folder.keep_invitation(invitation)


def membership(folder: SwarmFolder, now_ms: Clock) -> Membership:
    """What makes this user's peers members. Where the swarm's key is, it never ends. Raises UsageError."""
    invitation = _own_invitation(folder, now_ms())
    return Membership(
        invitation,
        read_again=lambda: _own_invitation(folder, now_ms()),
        kept_list=folder.kept_list(invitation.swarm_id),
    )


def revoke(folder: SwarmFolder, revoked_id: str, now_ms: int) -> None:
    """Revoke a peer, or an invitation and all who came through it: in the ledger, and in the list that members hand on.
    Raises UsageError."""
    key = folder.swarm_key()
    with folder.locked():
        ledger, kept_list = folder.ledger(), folder.kept_list(key.peer_id)
        if kept_list.sequence() > ledger.sequence:  # a list of this ledger would forget what others have revoked
            raise UsageError(
                f"More has been revoked than the ledger in {folder.path} says.", "Put the newest ledger.json there."
            )
        if revoked_id == folder.invitation(now_ms=0).invitation_id:
            raise UsageError("That is your own membership.", "Name another peer or invitation.")
        ledger = ledger.without(revoked_id, now_ms)
        folder.keep_ledger(ledger)
        sealed = seal_revocations(key, ledger.sequence, ledger.revoked)
        kept_list.write(sealed, ledger.sequence)


def _own_invitation(folder: SwarmFolder, now_ms: int) -> Invitation:
    if not folder.has_key:
        return folder.invitation(now_ms)
    own = folder.invitation(now_ms=0)
    if own.expires_ms - now_ms >= RENEWED_BEFORE_MS:
        return own
    expires_ms = now_ms + OWN_DAYS * DAY_MS
    own = msgspec.structs.replace(own, delegation=delegate(folder.swarm_key(), own.invitation_id, expires_ms))
    with folder.locked():
        folder.keep_ledger(folder.ledger().with_invitation(own, OWN_NOTE))
    folder.keep_invitation(own)
    return own


def _swarm_id(folder: SwarmFolder) -> str | None:
    if folder.has_key:
        return folder.swarm_key().peer_id
    return folder.invitation(now_ms=0).swarm_id if folder.exists else None
