"""The invitation: one line of text that makes a member of whoever holds it.

It holds an invitation's private key, which certifies the holder's own peers, so nobody has to be asked. Knows nothing
of files.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Annotated

import msgspec
from msgspec import Meta

from p2pnet.errors import NotAMember, UsageError
from p2pnet.identity import Identity
from p2pnet.network.multiaddrs import check_peer_address
from p2pnet.records import MAX_ADDRESS_CHARS, Milliseconds, PeerId
from p2pnet.swarm.certificates import Certificate, Delegation, certify, check_delegation, delegate
from p2pnet.swarm.secret import SECRET_BYTES

PREFIX = "p2pnet-swarm:"
"""Of the line. Another form gets another prefix."""

MAX_INITIAL_PEERS = 8
"""Two bootstraps with TCP and QUIC over IPv4 and IPv6. The line should still fit a chat message."""

SwarmName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
"""What people call a swarm; also a folder's name, so nothing that leads out of one."""

_Bytes32 = Annotated[bytes, Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
_Address = Annotated[str, Meta(max_length=MAX_ADDRESS_CHARS)]


class Invitation(msgspec.Struct, frozen=True, array_like=True):
    """What its line says. `join_by_ms` binds honest software alone: who keeps the line can use it until the delegation
    expires, or is revoked."""

    name: SwarmName
    swarm_id: PeerId
    secret: _Bytes32
    seed: _Bytes32
    """Of the invitation's key."""
    delegation: Delegation
    join_by_ms: Milliseconds
    initial_peers: Annotated[tuple[_Address, ...], Meta(max_length=MAX_INITIAL_PEERS)] = ()

    @property
    def invitation_id(self) -> str:
        return self.delegation.invitation_id

    @property
    def expires_ms(self) -> int:
        return self.delegation.expires_ms

    def certificate_for(self, peer_id: str) -> Certificate:
        """One for a peer of the holder's, for as long as the invitation lasts."""
        key = Identity.from_seed(self.seed)
        return certify(key, self.delegation, self.swarm_id, peer_id, self.expires_ms)

    def to_line(self) -> str:
        return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")


_decode = msgspec.msgpack.Decoder(Invitation).decode


def new_invitation(
    swarm: Identity, name: str, secret: bytes, initial_peers: tuple[str, ...], expires_ms: int, join_by_ms: int
) -> Invitation:
    """Another invitation into a swarm, with a key of its own."""
    seed = secrets.token_bytes(SECRET_BYTES)
    delegation = delegate(swarm, Identity.from_seed(seed).peer_id, expires_ms)
    return Invitation(name, swarm.peer_id, secret, seed, delegation, join_by_ms, initial_peers)


def read_invitation(line: str, now_ms: int) -> Invitation:
    """What a line says, once it is checked. Raises UsageError when it is no invitation, or has expired."""
    try:
        invitation = _decode(_decoded(line.strip()))
        is_its_key = Identity.from_seed(invitation.seed).peer_id == invitation.invitation_id
    except (ValueError, RecursionError) as error:  # MsgspecError and UnicodeDecodeError are ValueErrors
        raise _no_invitation("it is damaged, or of a newer version") from error
    if not is_its_key:
        raise _no_invitation("its key is not the one that was let in")
    for address in invitation.initial_peers:
        check_peer_address(address)
    try:
        check_delegation(invitation.delegation, invitation.swarm_id, now_ms)
    except NotAMember as error:
        raise _no_invitation(error.message) from error
    return invitation


def _decoded(line: str) -> bytes:
    """Raises ValueError."""
    if not line.startswith(PREFIX):
        raise _no_invitation(f"it does not begin with {PREFIX}")
    body = line.removeprefix(PREFIX)
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error


def _no_invitation(reason: str) -> UsageError:
    return UsageError(
        f"This is no invitation that can be used: {reason}.", "Copy the whole line, or ask for another invitation."
    )
