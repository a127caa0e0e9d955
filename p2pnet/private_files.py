"""Reads files that other users of this machine must not read, or not change, and mends the mode of those that they may;
writes them at once, and one command at a time.

Judges the file that it has opened, so that nothing can take its place in between. Knows nothing of what is in it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import IO

from p2pnet.errors import UsageError

logger = logging.getLogger(__name__)

NOBODY_ELSE = 0o077
"""What others may not do with a secret: anything."""

NOBODY_ELSE_WRITES = 0o022
"""What others may not do with a file that only says who is trusted: change it."""

GROUP_READS = 0o040
"""Of root's own files: a secret that root hands to a service is often its group's to read."""

ROOT = 0


class Finding(Enum):
    """What is to be done about a file."""

    FINE = auto()
    MEND = auto()
    """Others may do too much, and we can change that."""
    OPEN = auto()
    """Others may do too much, and we cannot change that."""
    STRANGE = auto()
    """It is another user's, who may change it at any time."""


def judge(owner: int, mode: int, user: int, forbidden: int) -> Finding:
    """What a process of `user` has to think of a file with this owner and mode. Root is everybody's to trust, and may
    mend every file."""
    if user not in (owner, ROOT):
        if owner != ROOT:
            return Finding.STRANGE
        return Finding.OPEN if mode & forbidden & ~GROUP_READS else Finding.FINE
    return Finding.MEND if mode & forbidden else Finding.FINE


def read_private(path: Path, forbidden: int) -> bytes:
    """The content of a regular file, with which others may do none of what is `forbidden`. Raises OSError when it
    cannot be read, UsageError when it must not be used."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
    try:
        keep_private(descriptor, path, forbidden)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def write_private(
    path: Path, content: bytes, what: str = "file", fix: str = "Make room for it, or its folder writable."
) -> None:
    """Replace a file at once, or make it: readable by its owner only. Raises UsageError, which calls it `what`, and it
    is as it was then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        beside = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"The {what} {path} cannot be written: {error.strerror}.", fix) from error


def open_lock(path: Path) -> IO[str]:
    """A file to lock, made when missing, that others cannot open: who can may lock it, too, and keep us out."""
    return open(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600))


@contextmanager
def locked(path: Path, what: str, fix: str) -> Iterator[None]:
    """Keep our other commands from changing a file meanwhile: of two that read it together, one would undo the other.
    Raises UsageError, which calls it `what`.

    What is locked is an empty file beside it, since each change puts another file in its place. A lock ends with its
    process, so a lock file that is there says nothing; it is never deleted, as another may be waiting for it.
    """
    beside = path.parent / f".{path.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open_lock(beside)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise UsageError(f"The {what} {path} cannot be changed: {error.strerror} for {beside}.", fix) from error
    with lock:
        yield


def keep_private(descriptor: int, path: Path, forbidden: int) -> None:
    """See to it that others may not do what is `forbidden` with the open file, and say so where they could. Raises
    UsageError when it must not be used."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} cannot be read: it is not a file.", "Name another one.")
    mode = stat.S_IMODE(status.st_mode)
    finding = judge(status.st_uid, mode, os.getuid(), forbidden)
    if finding is Finding.STRANGE:
        raise UsageError(
            f"The file {path} belongs to another user (uid {status.st_uid}), who may change it.",
            "Name a file of your own.",
        )
    if finding is Finding.OPEN or (finding is Finding.MEND and not _mended(descriptor, mode & ~forbidden)):
        raise UsageError(
            f"Other users of this machine may {_may(forbidden)} the file {path} (mode {mode:o}).",
            f"Take that from them: chmod {mode & ~forbidden:o} {path}",
        )
    if finding is Finding.MEND:
        logger.warning(
            "other users of this machine could %s the file %s (mode %o): not any more (mode %o). "
            "What they have seen or done before stays so",
            _may(forbidden),
            path,
            mode,
            mode & ~forbidden,
        )
    _look_at_folder(path.parent)


def _look_at_folder(folder: Path) -> None:
    """Who may write to it can put another file in place of ours. That is common where a container is given a volume,
    and nobody else is there: it is said, and no reason to stop."""
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        logger.warning("everybody may replace what is in %s: chmod o-w %s", folder, folder)


def _mended(descriptor: int, mode: int) -> bool:
    try:
        os.fchmod(descriptor, mode)
    except OSError:
        return False
    return True


def _may(forbidden: int) -> str:
    return "read or change" if forbidden & stat.S_IRGRP else "change"
