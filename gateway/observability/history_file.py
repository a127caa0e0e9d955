"""Reads and writes the file of the history: SQLite, blocking, for one thread. Knows nothing of asyncio.

How such a file is opened, kept for one process and moved aside is said in `gateway.database`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from gateway.database import Database, Form, NotOurs, open_database
from gateway.observability.recent import MAX_REQUESTS, Kept
from gateway.observability.reports import RequestReport

APPLICATION_ID = 0x70327067
"""In the file's header: "p2pg"."""

SCHEMA_VERSION = 1
SCHEMA = (
    "CREATE TABLE requests (number INTEGER PRIMARY KEY, report TEXT NOT NULL)",
    "CREATE TABLE known_models (id TEXT NOT NULL UNIQUE)",
)
"""A report is JSON: a new field with a default needs no new schema."""

MAX_FILE_BYTES = 64 << 20
"""Room for MAX_REQUESTS of the longest reports that strangers can cause, several times over for usual ones."""

_decode_report = msgspec.json.Decoder(RequestReport).decode


@dataclass(frozen=True)
class Contents:
    """What a file held when it was opened, both oldest first."""

    requests: tuple[Kept, ...]
    models: tuple[str, ...]


def open_history(
    path: Path, now_unix_s: float, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_FILE_BYTES
) -> tuple[HistoryFile, Contents]:
    """Open the file, or make it. Raises sqlite3.Error or OSError when there can be none."""
    read = partial(_read, max_requests=max_requests)
    form = Form("the history", APPLICATION_ID, SCHEMA_VERSION, SCHEMA, max_bytes, read, Contents((), ()))
    database, contents = open_database(path, form, now_unix_s)
    return HistoryFile(database, max_requests, contents.models), contents


class HistoryFile:
    """An open file. Make one with `open_history`."""

    def __init__(self, database: Database, max_requests: int, models: Iterable[str]) -> None:
        self._database = database
        self._max_requests = max_requests
        self._models = set(models)

    def write(self, requests: Sequence[Kept], models: Sequence[str]) -> None:
        """Add requests, and have `models` be all that are known; all or nothing. Raises sqlite3.Error."""
        gone, new = self._models.difference(models), [model for model in models if model not in self._models]
        rows = [(kept.number, msgspec.json.encode(kept.report).decode()) for kept in requests]
        with self._database.connection as transaction:
            if rows:
                transaction.execute("DELETE FROM requests WHERE number <= ?", (rows[-1][0] - self._max_requests,))
            transaction.executemany("INSERT INTO requests VALUES (?, ?)", rows)
            transaction.executemany("DELETE FROM known_models WHERE id = ?", [(model,) for model in gone])
            transaction.executemany("INSERT INTO known_models VALUES (?)", [(model,) for model in new])
        self._models = set(models)

    def close(self) -> None:
        self._database.close()


def _read(connection: sqlite3.Connection, max_requests: int) -> Contents:
    """Raises NotOurs."""
    newest_first = connection.execute(
        "SELECT number, report FROM requests ORDER BY number DESC LIMIT ?", (max_requests,)
    ).fetchall()
    models = connection.execute("SELECT id FROM known_models ORDER BY rowid").fetchall()
    try:
        requests = tuple(Kept(number, _decode_report(report)) for number, report in reversed(newest_first))
    except (msgspec.MsgspecError, TypeError) as error:
        raise NotOurs(f"it is damaged: {error}") from error
    return Contents(requests, tuple(str(model) for (model,) in models))
