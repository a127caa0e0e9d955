"""What gateways have signed for: summed, bounded, readable meanwhile, and no trouble when the disk is."""

from __future__ import annotations

import logging
import sqlite3
import stat
from pathlib import Path

import msgspec
import pytest

from p2pnet.cli.given import MAX_ROWS, show, summary
from p2pnet.errors import UsageError
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.receipts.statement import open_statement, seal_statement
from p2pnet.worker.given.file import OTHERS, Bounds, Signed, Sum, read_signed, read_sums, write
from p2pnet.worker.given.keeper import GivenKeeper, week_of
from tests.stories import NOW_MS, peer, settle_threads

WORKER, GATEWAY = peer("worker"), peer("gateway")
SAID = Acknowledgement(GATEWAY.peer_id, WORKER.peer_id, bytes(32), bytes(32), "tiny", "received", NOW_MS, 12, 12)


TURNS = 10_000
"""Through another thread, until something was written, or not."""


def signed(week: str = "2026-W48", gateway: str = "g", tokens: int = 5, model: str = "tiny") -> Signed:
    return Signed(week, "w", model, gateway, tokens, b"sealed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "given.sqlite3"


def test_what_is_written_is_summed_up(path: Path) -> None:
    write(path, [signed(), signed(tokens=7), signed("2026-W49"), signed(gateway="other")])
    write(path, [signed(tokens=1)])
    assert read_sums(path) == [
        Sum("2026-W48", "w", "tiny", "g", 3, 13),
        Sum("2026-W48", "w", "tiny", "other", 1, 5),
        Sum("2026-W49", "w", "tiny", "g", 1, 5),
    ]
    assert read_signed(path) == [b"sealed"] * 5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_there_at_first(path: Path) -> None:
    assert read_sums(path) == [] and read_signed(path) == [] and not path.exists()


def test_invented_gateways_fill_no_disk_and_change_no_sum(path: Path) -> None:
    bounds = Bounds(sums=50, acknowledgements=30)
    write(path, [signed(gateway="honest", tokens=1000)], bounds)
    for batch in range(10):
        write(path, [signed(gateway=f"invented-{batch}-{number}", tokens=1) for number in range(40)], bounds)
    sums = read_sums(path)
    assert len(sums) <= 50 and len(read_signed(path)) == 30
    assert sum(each.tokens for each in sums) == 1400 and sum(each.answers for each in sums) == 401
    assert [each.tokens for each in sums if each.gateway == "honest"] == [1000]
    assert OTHERS in {each.gateway for each in sums}


def test_it_is_read_while_it_is_written(path: Path) -> None:
    write(path, [signed()])
    writing = sqlite3.connect(path)
    try:
        writing.execute("BEGIN IMMEDIATE")
        writing.execute("DELETE FROM sums")
        assert len(read_sums(path)) == 1
    finally:
        writing.close()


@pytest.mark.parametrize("content", [b"no database at all, but long enough for a header" * 40, None])
def test_what_is_not_ours_is_neither_read_nor_changed(path: Path, content: bytes | None) -> None:
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE theirs (a)")
        other.commit()
        other.close()
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        read_sums(path)
    with pytest.raises(sqlite3.Error):
        write(path, [signed()])
    if content is not None:
        assert path.read_bytes() == content


async def test_a_worker_keeps_what_is_signed(path: Path) -> None:
    sealed = seal_statement(SAID, GATEWAY)
    async with GivenKeeper(path, unix_s=lambda: NOW_MS / 1000) as keeper:
        keeper.keep(SAID, sealed)
        await keeper.flush()
        assert len(read_sums(path)) == 1
        keeper.keep(msgspec.structs.replace(SAID, model="other"), sealed)
    assert [(each.model, each.tokens) for each in read_sums(path)] == [("other", 12), ("tiny", 12)]
    assert [open_statement(each, Acknowledgement) for each in read_signed(path)] == [SAID, SAID]


async def test_what_a_gateway_calls_wrong_is_said_and_not_kept(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with GivenKeeper(path) as keeper:
        keeper.keep(msgspec.structs.replace(SAID, verdict="wrong_receipt"), b"")
    assert read_sums(path) == []
    assert GATEWAY.peer_id in caplog.text


@pytest.fixture
def not_ours(path: Path) -> Path:
    path.write_bytes(b"something else" * 100)
    return path


async def test_a_file_that_cannot_be_written_is_said_once(not_ours: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with GivenKeeper(not_ours) as keeper:
        for _ in range(3):
            keeper.keep(SAID, b"sealed")
            await keeper.flush()
    assert caplog.text.count("cannot be kept") == 1


@pytest.mark.parametrize(
    ("unix_s", "week"), [(1_800_000_000, "2027-W02"), (0, "1970-W01"), (1_767_225_600, "2026-W01")]
)
def test_weeks_are_those_of_iso_8601(unix_s: float, week: str) -> None:
    assert week_of(unix_s) == week


def test_no_line_is_wider_than_a_terminal() -> None:
    sums = [
        Sum(f"2026-W{number:02}", "w" * 52, "m" * 128 if number else "tiny", peer(str(number)).peer_id, 10**6, 10**9)
        for number in range(40)
    ]
    lines = summary(sums)
    assert max(map(len, lines)) <= 80
    assert any(peer("3").peer_id in line for line in lines)
    assert f"and {40 - MAX_ROWS} more: --json has them" in lines


def test_the_command_says_it_as_text_and_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(path)
    assert "No gateway has signed" in capsys.readouterr().out
    write(path, [signed(tokens=1234)])
    show(path)
    assert "1,234" in capsys.readouterr().out
    show(path, as_json=True)
    [row] = msgspec.json.decode(capsys.readouterr().out)["given"]
    assert row["tokens"] == 1234
    show(path, signed=True)
    assert capsys.readouterr().out == "c2VhbGVk\n"


async def test_a_writing_that_fails_in_a_way_of_its_own_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with GivenKeeper(Path("no file\0"), write_interval_s=0) as keeper:
        keeper.keep(SAID, b"sealed")
        await settle_threads(lambda: bool(caplog.messages), TURNS)
    assert caplog.messages == ["keeping what gateways sign for was interrupted; it begins again"]
