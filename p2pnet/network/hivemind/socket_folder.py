"""Makes a folder for sockets that only this process uses, and removes those of killed ones.

Knows nothing of what is put into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

PREFIX = "p2pnet-sock-"
LOCK_NAME = "owner.lock"
MAX_PARENT_CHARS = 103 - len("/p2pnet-sock-12345678/p2pclient-12345678901.sock")
"""A unix socket's path has at most 103 characters on macOS, 107 on Linux. A longer one fails where nobody sees it."""
SHORT_PARENT = Path("/tmp")

SETTLING_S = 60.0
"""A folder younger than this may belong to a process that has not locked it yet."""


class SocketFolder:
    """Mode 0700: a control socket is a full API to the peer. Locked for as long as its owner lives."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls) -> SocketFolder:
        """A new folder, after the removal of those whose owners are gone."""
        parent = parent_for(Path(tempfile.gettempdir()))
        remove_abandoned(parent, time.time())
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = (path / LOCK_NAME).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(path, lock)

    def remove(self) -> None:
        """Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def parent_for(preferred: Path) -> Path:
    """The folder for temporary files, or a short one where a socket's path would be too long."""
    return preferred if len(str(preferred)) <= MAX_PARENT_CHARS else SHORT_PARENT


def remove_abandoned(parent: Path, now_s: float) -> None:
    """Remove our user's folders in `parent` that no living process has locked."""
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another process may be removing it at the same time
            status = path.lstat()
            if status.st_uid == os.getuid() and now_s - status.st_mtime > SETTLING_S and _is_unlocked(path / LOCK_NAME):
                shutil.rmtree(path)


def _is_unlocked(lock_file: Path) -> bool:
    with lock_file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
