"""Reads and writes the file of the book of standing: SQLite, blocking, for one thread. Knows nothing of asyncio.

It holds sums alone: no request, no answer, and of callers labels.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from gateway.database import Database, Form, NotOurs, open_database
from gateway.standing.book import Contents, Sum, Word

APPLICATION_ID = 0x70327067 + 2
"""In the file's header: "p2pi", two more than that of a gateway's history."""

SCHEMA_VERSION = 1
SCHEMA = (
    "CREATE TABLE received (worker TEXT PRIMARY KEY, tokens REAL NOT NULL, at_s REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE given (worker TEXT PRIMARY KEY, tokens REAL NOT NULL, at_s REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE pairs (caller TEXT NOT NULL, worker TEXT NOT NULL, tokens REAL NOT NULL, at_s REAL NOT NULL)",
    "CREATE TABLE said (peer TEXT NOT NULL, gateway TEXT NOT NULL, worker TEXT NOT NULL, tokens REAL NOT NULL, "
    "at_s REAL NOT NULL, PRIMARY KEY (peer, gateway, worker)) WITHOUT ROWID",
    "CREATE TABLE claimed (peer TEXT PRIMARY KEY, issued_ms INTEGER NOT NULL) WITHOUT ROWID",
)

MAX_STANDING_FILE_BYTES = 32 << 20
"""Several times what the largest book takes, with its journal."""


def open_book(path: Path, now_unix_s: float) -> tuple[BookFile, Contents]:
    """Open the file, or make it. Raises sqlite3.Error or OSError when there can be none."""
    form = Form("what was given", APPLICATION_ID, SCHEMA_VERSION, SCHEMA, MAX_STANDING_FILE_BYTES, _read, Contents())
    database, contents = open_database(path, form, now_unix_s)
    return BookFile(database), contents


class BookFile:
    """An open file. Make one with `open_book`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.close: Callable[[], None] = database.close

    def write(self, contents: Contents) -> None:
        """Have the file hold this, and nothing else; all or nothing. Raises sqlite3.Error."""
        sums = {"received": contents.received, "given": contents.given}
        pairs = [(*pair, each.tokens, each.at_s) for pair, each in contents.pairs.items()]
        said = [(word.peer, word.gateway, word.worker, each.tokens, each.at_s) for word, each in contents.said.items()]
        with self._database.connection as transaction:
            for table in (*sums, "pairs", "said", "claimed"):
                transaction.execute(f"DELETE FROM {table}")
            for table, of_workers in sums.items():
                rows = [(worker, each.tokens, each.at_s) for worker, each in of_workers.items()]
                transaction.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows)
            transaction.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?)", pairs)
            transaction.executemany("INSERT INTO said VALUES (?, ?, ?, ?, ?)", said)
            transaction.executemany("INSERT INTO claimed VALUES (?, ?)", list(contents.claimed_ms.items()))


def _read(connection: sqlite3.Connection) -> Contents:
    """Raises NotOurs."""
    pairs = connection.execute("SELECT caller, worker, tokens, at_s FROM pairs ORDER BY rowid").fetchall()
    said = connection.execute("SELECT peer, gateway, worker, tokens, at_s FROM said").fetchall()
    claimed = connection.execute("SELECT peer, issued_ms FROM claimed").fetchall()
    try:
        return Contents(
            _sums(connection.execute("SELECT worker, tokens, at_s FROM received")),
            _sums(connection.execute("SELECT worker, tokens, at_s FROM given")),
            {(str(row[0]), str(row[1])): Sum(float(row[2]), float(row[3])) for row in pairs},
            {Word(*map(str, row[:3])): Sum(float(row[3]), float(row[4])) for row in said},
            {str(peer): int(issued_ms) for peer, issued_ms in claimed},
        )
    except (TypeError, ValueError) as error:
        raise NotOurs(f"it is damaged: {error}") from error


def _sums(rows: Iterable[tuple[object, float, float]]) -> dict[str, Sum]:
    return {str(worker): Sum(float(tokens), float(at_s)) for worker, tokens, at_s in rows}
