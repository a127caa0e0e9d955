"""Reads and writes the file of what gateways have signed for: SQLite, blocking. Knows nothing of asyncio.

Several workers of one data folder write it, and others may read it meanwhile. It holds sums, which stay, and the newest
signatures themselves, which prove them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pnet.errors import UsageError
from p2pnet.private_files import NOBODY_ELSE, keep_private

APPLICATION_ID = 0x70327067 + 1
"""In the file's header: "p2ph", one more than that of a gateway's history."""

SCHEMA_VERSION = 1
SCHEMA = (
    "CREATE TABLE sums (week TEXT NOT NULL, worker TEXT NOT NULL, model TEXT NOT NULL, gateway TEXT NOT NULL, "
    "answers INTEGER NOT NULL, tokens INTEGER NOT NULL, PRIMARY KEY (week, worker, model, gateway)) WITHOUT ROWID",
    "CREATE TABLE acknowledgements (number INTEGER PRIMARY KEY, sealed BLOB NOT NULL)",
)

ADD = (
    "INSERT INTO sums VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET answers = answers + excluded.answers, tokens = tokens + excluded.tokens"
)

MAX_SUMS = 10_000
"""Kept: some 2 MB. A worker of three models has 150 in a year for each gateway that asks it all the time. Gateways cost
nothing to invent; of those beyond, the ones that got least become one row without a name, so that sums stay right."""

MAX_ACKNOWLEDGEMENTS = 20_000
"""Kept: the newest ones, some 14 MB."""

MAX_GIVEN_FILE_BYTES = 64 << 20
"""Twice as much as both take."""

LOCK_TIMEOUT_S = 2.0
"""For another worker of this folder that is just writing. Whoever writes has a thread of its own."""

OTHERS = ""
"""The gateway of a row that stands for many."""


@dataclass(frozen=True)
class Signed:
    """One acknowledgement, with the week in which it came: `2026-W48`, by this machine's clock."""

    week: str
    worker: str
    model: str
    gateway: str
    tokens: int
    sealed: bytes


@dataclass(frozen=True)
class Sum:
    """What one worker gave of one model to one gateway in one week."""

    week: str
    worker: str
    model: str
    gateway: str
    answers: int
    tokens: int


@dataclass(frozen=True)
class Bounds:
    """See the constants above."""

    sums: int = MAX_SUMS
    acknowledgements: int = MAX_ACKNOWLEDGEMENTS


def write(path: Path, signed: Sequence[Signed], bounds: Bounds = Bounds()) -> None:
    """Add these, all or nothing. Makes the file where there is none. Raises sqlite3.Error or OSError, and the file is
    as it was."""
    with _opened_for_writing(path) as connection, connection as transaction:
        sums = [(each.week, each.worker, each.model, each.gateway, 1, each.tokens) for each in signed]
        transaction.executemany(ADD, sums)
        transaction.executemany("INSERT INTO acknowledgements (sealed) VALUES (?)", [(each.sealed,) for each in signed])
        transaction.execute(
            "DELETE FROM acknowledgements WHERE number <= (SELECT max(number) FROM acknowledgements) - ?",
            (bounds.acknowledgements,),
        )
        _put_together(transaction, bounds.sums)


def read_sums(path: Path) -> list[Sum]:
    """All of them, oldest week first; none where there is no file. Raises UsageError."""
    query = "SELECT week, worker, model, gateway, answers, tokens FROM sums ORDER BY week, tokens DESC"
    return [Sum(*row) for row in _read(path, query)]


def read_signed(path: Path) -> list[bytes]:
    """The sealed acknowledgements that are kept, oldest first. Raises UsageError."""
    return [bytes(sealed) for (sealed,) in _read(path, "SELECT sealed FROM acknowledgements ORDER BY number")]


def _put_together(transaction: sqlite3.Connection, max_sums: int) -> None:
    (count,) = transaction.execute("SELECT count(*) FROM sums").fetchone()
    if count <= max_sums:
        return
    least = transaction.execute(
        "SELECT week, worker, model, gateway, answers, tokens FROM sums WHERE gateway != ? ORDER BY tokens LIMIT ?",
        (OTHERS, count - max_sums + max_sums // 10),
    ).fetchall()
    for week, worker, model, gateway, answers, tokens in least:
        key = (week, worker, model)
        transaction.execute(
            "DELETE FROM sums WHERE week = ? AND worker = ? AND model = ? AND gateway = ?", (*key, gateway)
        )
        transaction.execute(ADD, (*key, OTHERS, answers, tokens))


@contextmanager
def _opened_for_writing(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)  # whom one serves is one's own business
    try:
        keep_private(descriptor, path, NOBODY_ELSE)
    except UsageError as error:
        raise OSError(error.message) from error
    finally:
        os.close(descriptor)  # before SQLite locks it: its locks go with any descriptor of the file that is closed
    with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_S)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last rows, never the file
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA max_page_count = {MAX_GIVEN_FILE_BYTES // int(page_bytes)}")
        connection.execute("BEGIN IMMEDIATE")  # two workers that start together make one schema
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.commit()
        _check(connection)
        yield connection


def _check(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError for a file that is another program's, or a later version's."""
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    if found != [APPLICATION_ID, SCHEMA_VERSION]:
        raise sqlite3.DatabaseError("it is another program's, or of another version")


def _read(path: Path, query: str) -> list[Any]:
    if not path.exists():
        return []
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=LOCK_TIMEOUT_S)
        ) as reading:
            _check(reading)
            return reading.execute(query).fetchall()
    except sqlite3.Error as error:
        raise UsageError(
            f"The file {path} cannot be read: {error}.", "Move it aside: the worker makes a new one, and begins anew."
        ) from error
