"""What whoever has a swarm's key has done with it: the invitations made, and what is revoked. A function of data: the
time is passed in. Knows nothing of files.
"""

from __future__ import annotations

import msgspec

from p2pnet.errors import UsageError
from p2pnet.identity import public_key_of
from p2pnet.swarm.invitation import Invitation
from p2pnet.swarm.revocations import MAX_REVOKED


class Invited(msgspec.Struct, frozen=True):
    """One invitation. `note` is whom it was for, in its maker's words."""

    invitation_id: str
    note: str
    expires_ms: int


class Ledger(msgspec.Struct, frozen=True):
    """Of one swarm. `revoked` says until when each id counts as revoked; `sequence` is that of the last list."""

    invitations: tuple[Invited, ...] = ()
    revoked: dict[str, int] = {}
    sequence: int = 0

    def with_invitation(self, invitation: Invitation, note: str) -> Ledger:
        """One more invitation, or a longer life of one."""
        others = tuple(each for each in self.invitations if each.invitation_id != invitation.invitation_id)
        invited = Invited(invitation.invitation_id, note, invitation.expires_ms)
        return msgspec.structs.replace(self, invitations=(*others, invited))

    def without(self, revoked_id: str, now_ms: int) -> Ledger:
        """Revoke a peer, or an invitation and all who came through it, for as long as there may be certificates.
        Revocations that are of no use any more leave. Raises UsageError."""
        if public_key_of(revoked_id) is None:
            raise UsageError(
                f"{revoked_id!r} is the id of neither a peer nor an invitation.",
                "`p2pnet swarm members` lists both, with their ids.",
            )
        kept = {each: expires_ms for each, expires_ms in self.revoked.items() if expires_ms > now_ms}
        revoked = {**kept, revoked_id: self._end_of(revoked_id, now_ms)}
        if len(revoked) > MAX_REVOKED:
            raise UsageError(
                f"{MAX_REVOKED} ids are revoked, and no more can be.",
                "Revoke an invitation instead of peers that came through it, or make a new swarm and invite anew.",
            )
        return msgspec.structs.replace(self, revoked=revoked, sequence=max(now_ms, self.sequence + 1))

    def note_of(self, invitation_id: str) -> str:
        return next((each.note for each in self.invitations if each.invitation_id == invitation_id), "")

    def _end_of(self, revoked_id: str, now_ms: int) -> int:
        """When the last certificate of it ends: an invitation's own, a peer's with the last of all invitations."""
        own = [each.expires_ms for each in self.invitations if each.invitation_id == revoked_id]
        return max(own or [now_ms + 1, *(each.expires_ms for each in self.invitations)])
