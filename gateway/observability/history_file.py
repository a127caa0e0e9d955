"""Reads and writes the file of the history: SQLite, blocking, for one thread. Knows nothing of asyncio.

How such a file is opened, kept for one process and moved aside is said in `gateway.database`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from gateway.database import Database, Form, NotOurs, open_database
from gateway.observability.recent import MAX_REQUESTS, Kept
from gateway.observability.reports import RequestReport
from gateway.peers.flags import Flag

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

_decode_report = msgspec.json.Decoder(RequestReport).decode
_decode_flag = msgspec.json.Decoder(Flag).decode


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
    read = partial(_read, max_requests=max_requests)
    form = Form("the history", APPLICATION_ID, SCHEMA_VERSION, SCHEMA, max_bytes, read, Contents((), ()))
    database, contents = open_database(path, form, now_unix_s)
    return HistoryFile(database, max_requests, contents), contents


class HistoryFile:
    """An open file. Make one with `open_history`."""

    def __init__(self, database: Database, max_requests: int, contents: Contents) -> None:
        self._database = database
        self._max_requests = max_requests
        self._models = set(contents.models)
        self._flags = contents.flags

    def write(self, requests: Sequence[Kept], models: Sequence[str], flags: tuple[Flag, ...] = ()) -> None:
        """Add requests, and have `models` be all that are known and `flags` all that stand; all or nothing. Raises
        sqlite3.Error."""
        gone, new = self._models.difference(models), [model for model in models if model not in self._models]
        rows = [(kept.number, msgspec.json.encode(kept.report).decode()) for kept in requests]
        with self._database.connection as transaction:
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
        self._database.close()


def _read(connection: sqlite3.Connection, max_requests: int) -> Contents:
    """Raises NotOurs."""
    newest_first = connection.execute(
        "SELECT number, report FROM requests ORDER BY number DESC LIMIT ?", (max_requests,)
    ).fetchall()
    models = connection.execute("SELECT id FROM known_models ORDER BY rowid").fetchall()
    has_flags = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'flags'").fetchone()
    flagged = connection.execute("SELECT flag FROM flags ORDER BY rowid").fetchall() if has_flags else ()
    try:
        requests = tuple(Kept(number, _decode_report(report)) for number, report in reversed(newest_first))
        flags = tuple(_decode_flag(flag) for (flag,) in flagged)
    except (msgspec.MsgspecError, TypeError) as error:
        raise NotOurs(f"it is damaged: {error}") from error
    return Contents(requests, tuple(str(model) for (model,) in models), flags)
