"""Opens a file of the gateway's own: SQLite, blocking, for one thread. Knows nothing of what is in it.

One process writes it; others may read it meanwhile, so that a backup needs no stop. A file that is damaged, or not
ours, is moved aside, never deleted. Whatever else is wrong is raised as sqlite3.Error or OSError: the caller does
without.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from p2pnet.errors import UsageError
from p2pnet.private_files import NOBODY_ELSE, keep_private

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 1.0
"""For who looks at the file meanwhile with a lock that is not for readers. The writer has a thread of its own."""

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""What SQLite says of a file that is not what it should be. The last one: it lacks a table or a column of ours."""

T = TypeVar("T")


class NotOurs(Exception):
    """The file is damaged, of a newer version, or something else altogether."""


@dataclass(frozen=True)
class Form(Generic[T]):
    """What a file is. `what` it is begins a line in the log; `read` gets what is in it, changes nothing, and raises
    NotOurs where that makes no sense; `nothing` is what a new one holds."""

    what: str
    application_id: int
    version: int
    schema: tuple[str, ...]
    max_bytes: int
    read: Callable[[sqlite3.Connection], T]
    nothing: T


class Database:
    """An open file, to which no other process writes meanwhile. `claim` is what keeps others out, until it is
    closed."""

    def __init__(self, connection: sqlite3.Connection, claim: int) -> None:
        self.connection = connection
        self._claim = claim

    def close(self) -> None:
        try:
            self.connection.close()
        finally:
            os.close(self._claim)


def open_database(path: Path, form: Form[T], now_unix_s: float) -> tuple[Database, T]:
    """Open the file, or make it, and get what it holds. Raises sqlite3.Error or OSError when there can be none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _open(path, form)
    except NotOurs as error:
        aside = _move_aside(path, now_unix_s)
        logger.warning("%s %s cannot be used (%s): it is now %s", form.what, path, error, aside.name)
        return _open(path, form)


def _open(path: Path, form: Form[T]) -> tuple[Database, T]:
    claim = _claim(path)
    try:
        connection, contents = _connect(path, form)
    except BaseException:
        os.close(claim)
        raise
    return Database(connection, claim), contents


def _claim(path: Path) -> int:
    """The file, made when missing, with a lock of the kind that SQLite does not use: readers are not kept out. It must
    be closed after SQLite's own, whose locks go with the first descriptor of the file that is closed."""
    claim = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)  # who asked what is its owner's business
    try:
        keep_private(claim, path, NOBODY_ELSE)  # a copy that was put back may be everybody's to read
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except UsageError as error:
        os.close(claim)
        raise OSError(errno.EPERM, error.message) from error
    except OSError as error:
        os.close(claim)
        if error.errno == errno.EWOULDBLOCK:
            raise OSError(error.errno, "it is locked by another process") from error
        raise
    return claim


def _connect(path: Path, form: Form[T]) -> tuple[sqlite3.Connection, T]:
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S)
    try:
        is_new = _value(connection, "SELECT count(*) FROM sqlite_master") == 0
        contents = form.nothing if is_new else _read(connection, form)
        _prepare(connection, form, is_new)
    except sqlite3.DatabaseError as error:
        connection.close()
        if (error.sqlite_errorcode & 0xFF) in DAMAGED:
            raise NotOurs(str(error)) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection, contents


def _prepare(connection: sqlite3.Connection, form: Form[T], is_new: bool) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost what is newest, never the file
    connection.execute(f"PRAGMA max_page_count = {form.max_bytes // int(_value(connection, 'PRAGMA page_size'))}")
    if is_new:
        with connection as transaction:
            transaction.execute("BEGIN")
            for statement in form.schema:
                transaction.execute(statement)
            transaction.execute(f"PRAGMA application_id = {form.application_id}")
            transaction.execute(f"PRAGMA user_version = {form.version}")


def _read(connection: sqlite3.Connection, form: Form[T]) -> T:
    """Changes nothing: it may be anybody's. Raises NotOurs."""
    if _value(connection, "PRAGMA application_id") != form.application_id:
        raise NotOurs("it is another program's")
    version = _value(connection, "PRAGMA user_version")
    if version != form.version:
        raise NotOurs(f"it is of version {version}, not {form.version}")
    if (found := _value(connection, "PRAGMA quick_check(1)")) != "ok":
        raise NotOurs(f"it is damaged: {found}")
    return form.read(connection)


def _value(connection: sqlite3.Connection, query: str) -> int | str:
    value: int | str = connection.execute(query).fetchone()[0]
    return value


def _move_aside(path: Path, now_unix_s: float) -> Path:
    """Out of the way, with its journal, under a name that nothing has yet."""
    stem = f"{path.name}.aside-{int(now_unix_s)}"
    names = (stem, *(f"{stem}-{count}" for count in range(2, 100)))
    aside = next(free for name in names if not (free := path.with_name(name)).exists())
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
