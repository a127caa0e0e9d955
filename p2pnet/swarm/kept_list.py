"""Keeps the newest list of what is revoked on disk, so that a member that starts again believes no older one.

Several processes of one user share the file: each reads it anew, and none writes an older list over a newer.
"""

from __future__ import annotations

import logging
from pathlib import Path

from p2pnet.errors import RecordRefused
from p2pnet.private_files import write_private
from p2pnet.swarm.revocations import open_revocations

logger = logging.getLogger(__name__)

MAX_LIST_FILE_BYTES = 1 << 16
"""More than any list has: what is longer is not one."""


class KeptList:
    """That of one swarm."""

    def __init__(self, path: Path, swarm_id: str) -> None:
        self._path = path
        self._swarm_id = swarm_id

    def read(self) -> bytes:
        """The sealed list; empty where there is none that makes sense."""
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_LIST_FILE_BYTES)
        except FileNotFoundError:
            return b""
        except OSError as error:
            logger.warning("%s is not read: %s", self._path, error)
            return b""

    def write(self, sealed_list: bytes, sequence: int) -> None:
        """Keep a list, unless one that is as new is there. Raises UsageError."""
        if self.sequence() < sequence:
            write_private(self._path, sealed_list)

    def sequence(self) -> int:
        """That of the list that is kept; 0 where there is none."""
        try:
            return open_revocations(self.read(), self._swarm_id).sequence
        except RecordRefused:
            return 0
