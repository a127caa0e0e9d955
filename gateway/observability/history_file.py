"""Reads and writes the file of the history: SQLite, blocking, for one thread. Knows nothing of asyncio.

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.observability.recent import MAX_REQUESTS, Kept
from gateway.observability.reports import RequestReport
from gateway.peers.flags import Flag
from p2pnet.errors import UsageError
from p2pnet.private_files import NOBODY_ELSE, keep_private

logger = logging.getLogger(__name__)

APPLICATION_ID = 0x70327067
"""In the file's header: "p2pg"."""

SCHEMA_VERSION = 1
SCHEMA = (
    "CREATE TABLE requests (number INTEGER PRIMARY KEY, report TEXT NOT NULL)",
    "CREATE TABLE known_models (id TEXT NOT NULL UNIQUE)",
)
"""A report is JSON: a new field with a default needs no new schema."""

FLAGS = "CREATE TABLE IF NOT EXISTS flags (worker TEXT NOT NULL UNIQUE, flag TEXT NOT NULL)"
"""Made with the first flag. A program that does not know it passes over it, so the version is the same."""

MAX_FILE_BYTES = 64 << 20
"""Room for MAX_REQUESTS of the longest reports that strangers can cause, several times over for usual ones."""

LOCK_TIMEOUT_S = 1.0
"""For who looks at the file meanwhile with a lock that is not for readers. The writer has a thread of its own."""

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""What SQLite says of a file that is not what it should be. The last one: it lacks a table or a column of ours."""

_decode_report = msgspec.json.Decoder(RequestReport).decode
_decode_flag = msgspec.json.Decoder(Flag).decode


class NotOurs(Exception):
    """The file is damaged, of a newer version, or something else altogether."""


@dataclass(frozen=True)
class Contents:
    """What a file held when it was opened, all of it oldest first."""

    requests: tuple[Kept, ...]
    models: tuple[str, ...]
    flags: tuple[Flag, ...] = ()


def open_history(
    path: Path, now_unix_s: float, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_FILE_BYTES
) -> tuple[HistoryFile, Contents]:
    """Open the file, or make it. Raises sqlite3.Error or OSError when there can be none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _open(path, max_requests, max_bytes)
    except NotOurs as error:
        aside = _move_aside(path, now_unix_s)
        logger.warning("the history %s cannot be used (%s): it is now %s", path, error, aside.name)
        return _open(path, max_requests, max_bytes)


class HistoryFile:
    """An open file, to which no other process writes meanwhile. Make one with `open_history`. `claim` is what keeps
    others out, until it is closed."""

    def __init__(self, connection: sqlite3.Connection, claim: int, max_requests: int, contents: Contents) -> None:
        self._connection = connection
        self._claim = claim
        self._max_requests = max_requests
        self._models = set(contents.models)
        self._flags = contents.flags

    def write(self, requests: Sequence[Kept], models: Sequence[str], flags: tuple[Flag, ...] = ()) -> None:
        """Add requests, and have `models` be all that are known and `flags` all that stand; all or nothing. Raises
        sqlite3.Error."""
        gone, new = self._models.difference(models), [model for model in models if model not in self._models]
        rows = [(kept.number, msgspec.json.encode(kept.report).decode()) for kept in requests]
        with self._connection as transaction:
            if rows:
                transaction.execute("DELETE FROM requests WHERE number <= ?", (rows[-1][0] - self._max_requests,))
            transaction.executemany("INSERT INTO requests VALUES (?, ?)", rows)
            transaction.executemany("DELETE FROM known_models WHERE id = ?", [(model,) for model in gone])
            transaction.executemany("INSERT INTO known_models VALUES (?)", [(model,) for model in new])
            if flags != self._flags:
                transaction.execute(FLAGS)
                transaction.execute("DELETE FROM flags")
                values = [(flag.worker, msgspec.json.encode(flag).decode()) for flag in flags]
                transaction.executemany("INSERT INTO flags VALUES (?, ?)", values)
        self._models, self._flags = set(models), flags

    def close(self) -> None:
        try:
            self._connection.close()
        finally:
            os.close(self._claim)


def _open(path: Path, max_requests: int, max_bytes: int) -> tuple[HistoryFile, Contents]:
    claim = _claim(path)
    try:
        connection, contents = _connect(path, max_requests, max_bytes)
    except BaseException:
        os.close(claim)
        raise
    return HistoryFile(connection, claim, max_requests, contents), contents


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


def _connect(path: Path, max_requests: int, max_bytes: int) -> tuple[sqlite3.Connection, Contents]:
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S)
    try:
        is_new = _value(connection, "SELECT count(*) FROM sqlite_master") == 0
        contents = Contents((), ()) if is_new else _read(connection, max_requests)
        _prepare(connection, is_new, max_bytes)
    except sqlite3.DatabaseError as error:
        connection.close()
        if (error.sqlite_errorcode & 0xFF) in DAMAGED:
            raise NotOurs(str(error)) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection, contents


def _prepare(connection: sqlite3.Connection, is_new: bool, max_bytes: int) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last requests, never the file
    connection.execute(f"PRAGMA max_page_count = {max_bytes // int(_value(connection, 'PRAGMA page_size'))}")
    if is_new:
        with connection as transaction:
            transaction.execute("BEGIN")
            for statement in SCHEMA:
                transaction.execute(statement)
            transaction.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            transaction.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check(connection: sqlite3.Connection) -> None:
    if _value(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise NotOurs("it is another program's")
    version = _value(connection, "PRAGMA user_version")
    if version != SCHEMA_VERSION:
        raise NotOurs(f"it is of version {version}, not {SCHEMA_VERSION}")
    if (found := _value(connection, "PRAGMA quick_check(1)")) != "ok":
        raise NotOurs(f"it is damaged: {found}")


def _read(connection: sqlite3.Connection, max_requests: int) -> Contents:
    """Changes nothing: it may be anybody's. Raises NotOurs."""
    _check(connection)
    newest_first = connection.execute(
        "SELECT number, report FROM requests ORDER BY number DESC LIMIT ?", (max_requests,)
    ).fetchall()
    models = connection.execute("SELECT id FROM known_models ORDER BY rowid").fetchall()
    has_flags = _value(connection, "SELECT count(*) FROM sqlite_master WHERE name = 'flags'")
    flagged = connection.execute("SELECT flag FROM flags ORDER BY rowid").fetchall() if has_flags else ()
    try:
        requests = tuple(Kept(number, _decode_report(report)) for number, report in reversed(newest_first))
        flags = tuple(_decode_flag(flag) for (flag,) in flagged)
    except (msgspec.MsgspecError, TypeError) as error:
        raise NotOurs(f"it is damaged: {error}") from error
    return Contents(requests, tuple(str(model) for (model,) in models), flags)


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
