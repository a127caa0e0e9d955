"""The files of the swarms that this user is a member of: a folder for each, which nobody else may read.

invitation      its line: what makes the user's peers members
revocations     the newest list of what is revoked
swarm.key       only where the swarm was made here: the swarm's key
ledger.json     beside it: invitations made, and what is revoked
*.key, ...      identities of the peers that take part in it, and what belongs to each
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from p2pnet.errors import UsageError
from p2pnet.identity import Identity
from p2pnet.private_files import NOBODY_ELSE, locked, read_private, write_private
from p2pnet.swarm.invitation import Invitation, SwarmName, read_invitation
from p2pnet.swarm.kept_list import KeptList
from p2pnet.swarm.ledger import Ledger

_UNKNOWN_FIX = "Make it with `p2pnet swarm create`, or join it with `p2pnet swarm join` and an invitation."


class SwarmFolder:
    """That of one swarm. There need not be one yet."""

    def __init__(self, swarms: Path, name: str) -> None:
        check_swarm_name(name)
        self.name = name
        self.path = swarms / name
        self._invitation = self.path / "invitation"
        self._swarm_key = self.path / "swarm.key"
        self._ledger = self.path / "ledger.json"

    @property
    def exists(self) -> bool:
        return self._invitation.exists()

    @property
    def has_key(self) -> bool:
        """Whether the swarm was made here."""
        return self._swarm_key.exists()

    def invitation(self, now_ms: int) -> Invitation:
        """The one that this user holds. Raises UsageError when there is none, or when it has expired."""
        if not self.exists:
            raise UsageError(f"There is no swarm called {self.name} here.", _UNKNOWN_FIX)
        return read_invitation(_read(self._invitation).decode(errors="replace"), now_ms)

    def keep_invitation(self, invitation: Invitation) -> None:
        """In place of another one of the same swarm, if there was one. Raises UsageError."""
        self._make()
        write_private(self._invitation, invitation.to_line().encode() + b"\n")

    def swarm_key(self) -> Identity:
        """Raises UsageError where the swarm was not made here."""
        if not self.has_key:
            raise UsageError(
                f"The key of the swarm {self.name} is not here.", "Ask whoever made the swarm, where it was made."
            )
        return Identity.load(self._swarm_key)

    def keep_swarm_key(self, key: Identity) -> None:
        """Raises UsageError where there is one."""
        self._make()
        try:
            key.save(self._swarm_key)
        except FileExistsError as error:
            raise UsageError(f"There is a swarm called {self.name} already.", "Choose another name.") from error

    def kept_list(self, swarm_id: str) -> KeptList:
        return KeptList(self.path / "revocations", swarm_id)

    def ledger(self) -> Ledger:
        """Raises UsageError when it makes no sense."""
        if not self._ledger.exists():
            return Ledger()
        try:
            return msgspec.json.decode(_read(self._ledger), type=Ledger)
        except ValueError as error:  # MsgspecError is one
            raise UsageError(
                f"The file {self._ledger} makes no sense: {error}.", "Put a copy of it in its place."
            ) from error

    def keep_ledger(self, ledger: Ledger) -> None:
        write_private(self._ledger, msgspec.json.format(msgspec.json.encode(ledger)))

    def _make(self) -> None:
        """Raises UsageError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"The folder {self.path} cannot be made: {error.strerror}.",
                "Name another data folder with P2PNET_DATA_DIR.",
            ) from error

    def locked(self) -> AbstractContextManager[None]:
        """Keep other commands from changing the folder meanwhile. Raises UsageError."""
        return locked(self._ledger, "file", "Make its folder one that you can write.")


def check_swarm_name(name: str) -> None:
    """Raises UsageError unless this may be a swarm's name."""
    try:
        msgspec.convert(name, SwarmName)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"A swarm cannot be called {name!r}.", "Use up to 64 letters, digits, dots, dashes and underscores."
        ) from error


def _read(path: Path) -> bytes:
    try:
        return read_private(path, NOBODY_ELSE)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Make it readable for your user.") from error
