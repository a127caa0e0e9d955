"""The history: pages and statistics as tables; over restarts, damage and full disks with real files."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.observability.history import History
from gateway.observability.history_file import APPLICATION_ID, SCHEMA_VERSION
from gateway.observability.outcomes import is_failure, is_success
from gateway.observability.recent import MAX_ATTEMPTS, MAX_REQUESTS, Recent, RequestQuery, WorkerStatistics
from gateway.observability.reports import CANCELLED, AttemptReport
from tests.gateway.reports import NOON_S, attempt, report

Open = Callable[..., Awaitable[History]]

NEVER_S = 1e9
"""Until the writer writes by itself: these tests say when."""


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    """`await opened()` opens the history of this test's folder; all are closed at its end."""
    histories: list[History] = []

    async def open_history(path: Path | None = tmp_path / "gateway.sqlite3", **changes: Any) -> History:
        changes = {"write_interval_s": NEVER_S, "unix_s": lambda: NOON_S, **changes}
        histories.append(await History.open(path, **changes))
        return histories[-1]

    yield open_history
    for history in histories:
        await history.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("history")] == []


def numbers(history: History | Recent, **query: Any) -> list[int]:
    asked = RequestQuery(**{"limit": 1000, **query})
    return [kept.number for kept in (history.page(asked) if isinstance(history, Recent) else history.recent(asked))]


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in folder.rglob("*") if part.is_file()}


# In memory


MIXED = (
    report(attempt("ann")),
    report(attempt("bob", "peer_lost"), attempt("ann")),
    report(attempt("bob", "length"), model="large"),
    report(model="large"),
    report(attempt("ann", CANCELLED)),
)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"limit": 2}, [5, 4]),
        ({"limit": 2, "before": 4}, [3, 2]),
        ({"before": 1}, []),
        ({"model": "large"}, [4, 3]),
        ({"worker": "ann"}, [5, 2, 1]),
        ({"worker": "bob"}, [3, 2]),
        ({"worker": "nobody"}, []),
        ({"outcome": "stop"}, [2, 1]),
        ({"outcome": "no_worker"}, [4]),
        ({"outcome": CANCELLED}, [5]),
        ({"outcome": "peer_lost"}, []),
        ({"worker": "ann", "outcome": "stop", "before": 2}, [1]),
        ({"model": "large", "limit": 1}, [4]),
    ],
    ids=str,
)
def test_pages_are_the_newest_that_fit(query: dict[str, Any], found: list[int]) -> None:
    recent = Recent()
    for one in MIXED:
        recent.note(one)
    assert numbers(recent, **query) == found


def test_only_the_newest_are_kept() -> None:
    recent = Recent(max_requests=3)
    for one in MIXED:
        recent.note(one)
    assert numbers(recent) == [5, 4, 3]


def test_of_many_attempts_the_last_are_kept() -> None:
    kept = Recent().note(report(*(attempt(tokens=index) for index in range(100))))
    assert [one.tokens for one in kept.report.attempts] == list(range(100 - MAX_ATTEMPTS, 100))


@pytest.mark.parametrize(
    ("outcome", "success", "failure"),
    [
        ("stop", True, False),
        ("length", True, False),
        ("tool_calls", True, False),
        (CANCELLED, False, False),
        ("busy", False, False),
        ("draining", False, False),
        ("not_allowed", False, False),
        ("invalid_request", False, False),
        ("feature_missing", False, False),
        ("model_not_found", False, False),
        ("peer_lost", False, True),
        ("peer_unreachable", False, True),
        ("protocol_violation", False, True),
        ("worker_failed", False, True),
        ("internal", False, True),
    ],
)
def test_what_counts_for_and_against_a_worker(outcome: str, success: bool, failure: bool) -> None:
    assert (is_success(outcome), is_failure(outcome)) == (success, failure)


STATISTICS: list[tuple[str, list[AttemptReport], WorkerStatistics]] = [
    ("one", [attempt()], WorkerStatistics(1, 1.0, 1.0, 1.0, 0.2, 0.2, 10.0)),
    ("nothing told", [attempt(outcome="busy"), attempt(outcome=CANCELLED)], WorkerStatistics(2)),
    ("a failure", [attempt(outcome="peer_lost")], WorkerStatistics(1, 0.0)),
    (
        "mixed",
        [
            attempt(duration_s=2.0, first_token_s=1.0, tokens=11),
            attempt(duration_s=4.0, first_token_s=3.0, tokens=31),
            attempt(outcome="worker_failed"),
            attempt(outcome="invalid_request"),
        ],
        WorkerStatistics(4, 2 / 3, 3.0, 4.0, 2.0, 3.0, 20.0),
    ),
    ("one token", [attempt(tokens=1, duration_s=0.2)], WorkerStatistics(1, 1.0, 0.2, 0.2, 0.2, 0.2)),
    ("no token", [attempt(tokens=0, first_token_s=None)], WorkerStatistics(1, 1.0, 1.0, 1.0)),
    (
        "the 95th of a hundred",
        [attempt(duration_s=float(seconds), first_token_s=None) for seconds in range(100, 0, -1)],
        WorkerStatistics(100, 1.0, 50.5, 95.0),
    ),
]


@pytest.mark.parametrize(("attempts", "expected"), [row[1:] for row in STATISTICS], ids=[row[0] for row in STATISTICS])
def test_what_requests_say_of_a_worker(attempts: list[AttemptReport], expected: WorkerStatistics) -> None:
    recent = Recent()
    for one in attempts:
        recent.note(report(one))
    assert recent.measured("ann", NOON_S) == expected


def test_vectors_are_no_tokens() -> None:
    recent = Recent()
    recent.note(report(attempt(), task="embed"))
    assert recent.measured("ann", NOON_S) == WorkerStatistics(1, 1.0, 1.0, 1.0)


def test_statistics_are_of_each_worker_since_a_time() -> None:
    recent = Recent()
    recent.note(report(attempt("ann"), attempt("bob", began_s=5.0)))
    recent.note(report(attempt("bob"), arrived_unix_s=NOON_S + 10))
    counts = [
        [recent.measured(worker, NOON_S + since_s).requests for worker in ("ann", "bob", "nobody")]
        for since_s in (0, 5, 6, 11)
    ]
    assert counts == [[1, 2, 0], [0, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_statistics_are_of_kept_requests_alone() -> None:
    recent = Recent(max_requests=2)
    for outcome in ("peer_lost", "stop", "stop"):
        recent.note(report(attempt("ann", outcome), attempt("bob" if outcome == "peer_lost" else "ann")))
    assert recent.measured("ann", 0) == WorkerStatistics(4, 1.0, 1.0, 1.0, 0.2, 0.2, 10.0)
    assert recent.measured("bob", 0) == WorkerStatistics()


# Over restarts


async def test_a_restart_keeps_requests_statistics_and_models(opened: Open) -> None:
    first = await opened()
    for one in MIXED:
        first.note(one)
    first.note_models(["tiny", "large"])
    told, measured = first.recent(RequestQuery(100)), first.measured("ann", 0)
    await first.close()
    second = await opened()
    assert second.recent(RequestQuery(100)) == told
    assert second.measured("ann", 0) == measured
    assert second.known_models == ("tiny", "large")


async def test_numbers_go_on_after_a_restart(opened: Open) -> None:
    for _ in range(3):
        history = await opened()
        history.note(report(attempt()))
        await history.close()
    assert numbers(await opened()) == [3, 2, 1]


async def test_what_was_flushed_survives_without_a_close(opened: Open, tmp_path: Path) -> None:
    history = await opened()
    history.note(report(attempt()))
    await history.flush()
    copies = tmp_path / "copies"
    files = bytes_in(tmp_path)
    copies.mkdir()
    for name, content in files.items():
        (copies / name).write_bytes(content)
    assert numbers(await opened(copies / "gateway.sqlite3")) == [1]


async def test_it_writes_by_itself(opened: Open, tmp_path: Path) -> None:
    history = await opened(write_interval_s=0.0)
    before = bytes_in(tmp_path)
    history.note(report(attempt()))
    async with asyncio.timeout(30):
        while await asyncio.to_thread(bytes_in, tmp_path) == before:
            pass


async def test_the_file_keeps_the_newest_only(opened: Open) -> None:
    history = await opened(max_requests=10)
    for _ in range(7):
        for _ in range(5):
            history.note(report(attempt()))
        await history.flush()
    await history.close()
    again = await opened(max_requests=MAX_REQUESTS)
    assert numbers(again) == list(range(35, 25, -1))


async def test_models_come_and_go(opened: Open) -> None:
    for models in (("a", "b"), ("b", "c"), ("b", "c"), ("c",), ("c", "a", "d")):
        history = await opened()
        history.note_models(models)
        await history.close()
        again = await opened()
        assert again.known_models == models
        await again.close()


async def test_callers_are_told_apart_and_not_named(opened: Open, tmp_path: Path) -> None:
    history = await opened()
    for caller in ("10.1.2.3", "10.1.2.3", "10.1.2.4"):
        history.note(report(attempt(), caller=caller))
    await history.close()
    third, second, first = (kept.report.caller for kept in history.recent(RequestQuery(3)))
    assert first == second != third
    assert b"10.1.2" not in (tmp_path / "gateway.sqlite3").read_bytes()


async def test_the_file_is_its_owners(opened: Open, tmp_path: Path) -> None:
    history = await opened(tmp_path / "folder" / "gateway.sqlite3")
    history.note(report())
    await history.flush()
    for part in (tmp_path / "folder").iterdir():
        assert stat.S_IMODE(part.stat().st_mode) == 0o600, part.name


async def test_without_a_path_it_is_in_memory(opened: Open, tmp_path: Path) -> None:
    history = await opened(None)
    history.note(report(attempt()))
    history.note_models(["tiny"])
    await history.flush()
    assert (numbers(history), history.known_models) == ([1], ("tiny",))
    assert bytes_in(tmp_path) == {}


async def test_after_the_end_it_can_be_read_and_noted(opened: Open) -> None:
    history = await opened()
    await history.close()
    history.note(report(attempt()))
    history.note_models(["tiny"])
    await history.flush()
    await history.close()
    assert numbers(history) == [1]


# Where something is wrong


def newer_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE requests (anything)")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()


def changed(statement: str) -> Callable[[Path], None]:
    """One of ours, in which somebody has changed something."""

    def change(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE requests (number INTEGER PRIMARY KEY, report TEXT NOT NULL)")
            connection.execute("CREATE TABLE known_models (id TEXT NOT NULL UNIQUE)")
            connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.close()

    return change


def torn(path: Path) -> None:
    """One of ours with pages overwritten."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99)"
    changed(f"{numbers} INSERT INTO requests SELECT i, hex(zeroblob(500)) FROM n")(path)
    data = bytearray(path.read_bytes())
    data[8192:-4096] = b"\xff" * (len(data) - 8192 - 4096)
    path.write_bytes(data)


def junk(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 80)


def text(path: Path) -> None:
    path.write_text("These are my notes.\n" * 1000)


DAMAGES: list[tuple[str, Callable[[Path], None]]] = [
    ("junk", junk),
    ("text", text),
    ("torn", torn),
    ("foreign", foreign),
    ("newer", newer_version),
    ("not JSON", changed("INSERT INTO requests VALUES (1, 'x')")),
    ("not a report", changed("INSERT INTO requests VALUES (1, '{}')")),
    ("not text", changed("INSERT INTO requests VALUES (1, 5)")),
    ("no table", changed("DROP TABLE known_models")),
]


@pytest.mark.parametrize("damage", [row[1] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
async def test_what_cannot_be_used_is_moved_aside_whole(
    damage: Callable[[Path], None], opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gateway.sqlite3"
    damage(path)
    path.chmod(0o600)  # else that would be said, too
    before = path.read_bytes()
    history = await opened()
    history.note(report(attempt()))
    await history.close()
    aside = tmp_path / f"gateway.sqlite3.aside-{int(NOON_S)}"
    assert aside.read_bytes() == before
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert aside.name in caplog.text
    assert numbers(await opened()) == [1]


async def test_nothing_that_was_moved_aside_is_overwritten(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite3"
    for text in ("one", "two", "three"):
        path.write_text(text * 1000)
        await (await opened()).close()
    aside = f"gateway.sqlite3.aside-{int(NOON_S)}"
    files = bytes_in(tmp_path)
    assert [files[name][:3] for name in (aside, f"{aside}-2", f"{aside}-3")] == [b"one", b"two", b"thr"]


@pytest.mark.parametrize("place", ["/proc/self/gateway.sqlite3", "/dev/null/gateway.sqlite3", "/"])
async def test_where_no_file_can_be_it_is_in_memory(place: str, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    history = await opened(Path(place))
    history.note(report(attempt()))
    await history.flush()
    assert numbers(history) == [1]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_second_gateway_on_one_file_does_without(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    first = await opened()
    second = await opened()
    for history in (first, second):
        history.note(report(attempt()))
        await history.close()
    assert len(caplog.records) == 1
    assert "locked" in caplog.text
    assert numbers(await opened()) == [1]


@pytest.mark.parametrize("way", ["backup", "vacuum"])
async def test_a_copy_made_meanwhile_holds_what_was_written(opened: Open, tmp_path: Path, way: str) -> None:
    """As `sqlite3 FILE '.backup COPY'` and `VACUUM INTO` do it, and the writer goes on."""
    history = await opened()
    history.note(report(attempt()))
    await history.flush()
    copy = tmp_path / "copy.sqlite3"
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite3")) as other, closing(sqlite3.connect(copy)) as target:
        if way == "backup":
            other.backup(target)
        else:
            other.execute("VACUUM INTO ?", (str(copy),))
        history.note(report(attempt()))
        await history.flush()
    await history.close()
    assert numbers(await opened(copy)) == [1]
    assert numbers(await opened()) == [2, 1]


async def test_a_full_disk_costs_the_file_some_requests_and_is_logged_once(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    history = await opened(max_bytes=64 << 10)
    for _ in range(5):
        for _ in range(100):
            history.note(report(attempt()))
        await history.flush()
    assert numbers(history) == list(range(500, 0, -1))
    assert len(caplog.records) == 1
    assert "full" in caplog.text
    await history.close()
    assert numbers(await opened()) == list(range(100, 0, -1))
    assert len(caplog.records) == 1


async def test_a_full_file_is_written_again_once_there_is_room(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    history = await opened(max_bytes=64 << 10, max_requests=100)
    for count in (100, 1, 100, 1):
        for _ in range(count):
            history.note(report(attempt(), request_id="x" * (100 if count == 1 else 10)))
        await history.flush()
    await history.close()
    assert caplog.records == []
    assert numbers(await opened()) == list(range(202, 102, -1))
