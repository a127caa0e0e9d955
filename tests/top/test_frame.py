"""What `p2pnet top` shows, as a function of what a gateway tells, on terminals of every width."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from p2pnet.top.columns import Column, cut, fitted, smoothed, sparkline
from p2pnet.top.frame import Kind, Size, frame
from p2pnet.top.overview import NotAnOverview, Overview, read_overview
from p2pnet.top.screen import drawn

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
SINCE = (NOW - timedelta(seconds=3700)).isoformat()
PEER = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"

TOLD: dict[str, Any] = {
    "gateway": {
        "id": PEER,
        "agent": "p2pnet/0.1.0",
        "started": "2026-11-28T10:00:00Z",
        "in_flight": 3,
        "waiting": 1,
        "requests_per_s": 2.5,
        "tokens_per_s": 120.4,
        "is_ready": True,
    },
    "models": [
        {"id": "tiny", "tasks": ["generate"], "workers": 2, "states": {"healthy": 2}, "slots": 16, "in_flight": 3},
        {"id": "lost", "tasks": ["embed"], "workers": 1, "states": {"lost": 1}, "tokens_per_s": 9.25},
    ],
    "workers": {
        "workers": [
            {
                "id": PEER,
                "name": "anna",
                "state": "healthy",
                "models": [{"id": "tiny", "task": "generate"}, {"id": "tiny", "task": "embed"}],
                "slots": 8,
                "in_flight": 3,
                "measured": {"success_rate": 0.987, "first_token_mean_s": 0.0312, "tokens_per_s": 41.04},
                "reached": "relayed",
                "since": SINCE,
            },
            {"id": PEER[:-1] + "Y", "state": "cooling", "reason": "peer_lost", "slots": 4, "reached": "direct"},
        ],
        "total": 5,
    },
    "series": {
        "step_s": 10,
        "points": [
            {"requests": n, "tokens": 10 * n, "first_token_p50_s": None if n < 3 else n / 100} for n in range(360)
        ],
    },
    "failures": {
        "failures": [
            {"at": "2026-11-28T11:59:00Z", "model": "tiny", "worker": PEER, "outcome": "peer_lost", "done": "resumed"},
            {"at": "2026-11-28T11:58:00Z", "model": "tiny", "worker": PEER, "outcome": "busy", "done": "gave_up"},
        ]
    },
}


def told(**changes: Any) -> Overview:
    return read_overview(json.dumps(TOLD | changes).encode())


def text_of(overview: Overview, width: int = 140, height: int | None = None) -> list[str]:
    return [line.text for line in frame(overview, NOW, Size(width, height))]


def test_all_of_it() -> None:
    text = "\n".join(text_of(told()))
    assert "gateway ..Nft9HyQ6X (p2pnet/0.1.0), up 2 h 0 min".replace("..Nft9HyQ6X", "..ft9HyQ6X") in text
    assert "2.5 requests/s, 120 tokens/s, 3 under way, 1 waiting" in text
    for cells in (
        ("tiny", "2", "2", "16", "3", "0", "-", "-", "generate"),
        ("lost", "1", "0", "0", "0", "0", "9.2", "-", "embed"),
        (
            "anna",
            "..ft9HyQ6X",
            "healthy",
            "tiny",
            "3/8",
            "41.0",
            "31",
            "ms",
            "99",
            "%",
            "relayed",
            "1",
            "h",
            "1",
            "min",
        ),
        ("..ft9HyQ6Y", "cooling", "0/4", "-", "-", "-", "direct", "-", "peer_lost"),
        ("peer_lost", "resumed", "tiny", "..ft9HyQ6X", "-"),
        ("and", "3", "more"),
    ):
        assert " ".join(cells) in " ".join(text.split()), cells
    assert "max 35.6" in text and "max 356" in text and "max 3.6 s" in text


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(-42.3, ", its clock is 42 s behind"), (3600.0, "3600 s ahead"), (1.9, "")]
)
def test_a_clock_that_is_off_is_said(ahead_s: float, said: str) -> None:
    title = text_of(told(gateway=TOLD["gateway"] | {"clock_ahead_s": ahead_s}))[0]
    assert title.endswith(said) and ("clock" in title) == bool(said)


def test_what_is_bad_is_marked() -> None:
    marked = [line.text.split()[0] for line in frame(told(), NOW, Size(140)) if line.kind is Kind.BAD]
    assert marked[:2] == ["lost", "..ft9HyQ6Y"]
    assert len(marked) == 3  # and the failure that was given up


@pytest.mark.parametrize("width", [1, 2, 8, 20, 33, 40, 60, 79, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Nor is any wrapped: a line of the frame is a line on the screen."""
    lines = frame(told(), NOW, Size(width))
    assert max(cell_len(line.text) for line in lines) <= width
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(drawn(lines))
    assert len(captured.get().splitlines()) == len(lines)


@pytest.mark.parametrize("height", [1, 3, 10, 20, 24, 50])
def test_no_frame_is_higher_than_the_terminal(height: int) -> None:
    many = {"workers": [{"id": PEER, "state": "healthy"} for _ in range(100)], "total": 250}
    text = text_of(told(workers=many), height=height)
    assert len(text) <= height
    if height >= 20:
        hidden = int(next(line for line in text if line.startswith("and ")).split()[1])
        assert hidden == 250 - sum(".." in line and "healthy" in line for line in text)
        assert "resumed" in "\n".join(text)


@pytest.mark.parametrize(
    "hostile", ["[red]x[/red]", "\x1b[31mx\x1b[0m", "a\nb", "\x1b]0;title\x07", "日本語" * 20, "\u202ex"]
)
def test_what_strangers_choose_is_only_text(hostile: str) -> None:
    models = [{"id": hostile, "workers": 1}]
    workers = {"workers": [{"id": hostile, "name": hostile, "state": hostile, "reason": hostile}], "total": 1}
    failures = {"failures": [{"model": hostile, "outcome": hostile, "done": hostile, "worker": hostile}]}
    lines = frame(told(models=models, workers=workers, failures=failures), NOW, Size(100))
    assert max(cell_len(line.text) for line in lines) <= 100
    assert all(line.text.isprintable() for line in lines)
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(drawn(lines))
    assert "\x1b" not in captured.get()
    if hostile.startswith("["):
        assert hostile in captured.get()


def test_what_a_gateway_leaves_out_and_adds() -> None:
    assert read_overview(b"{}") == Overview()
    assert read_overview(b'{"mesh": {"nodes": []}, "gateway": {"new": 1}}') == Overview()
    text = "\n".join(text_of(read_overview(b"{}")))
    assert "No worker serves a model at the moment." in text
    assert "not ready" in text


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"models": 3}', b'{"gateway": {"started": "x"}}', b"\xff"])
def test_what_is_no_overview(body: bytes) -> None:
    with pytest.raises(NotAnOverview):
        read_overview(body)


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 10, ""),
        ([0, 0], 10, "▁▁"),
        ([1, 2, 4, 8], 4, "▁▂▄█"),
        ([8, None, 8], 10, "█ █"),
        ([1, 8, 1, 8], 2, "██"),
        ([8, 1, 1], 2, "█▁"),
        ([None, None, 3], 1, "█"),
        ([1], 0, "█"),
        ([1] * 360, 50, "█" * 45),
    ],
)
def test_sparklines(values: list[float | None], width: int, line: str) -> None:
    assert sparkline(values, width) == line


COLUMNS = (Column("NAME", max_width=6), Column("MANY", 1, is_number=True), Column("WHY", 2))


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (40, ["NAME    MANY  WHY", "a         10  so", "longe…     9  b"]),
        (17, ["NAME    MANY  WHY", "a         10  so", "longe…     9  b"]),
        (16, ["NAME    WHY", "a       so", "longe…  b"]),
        (8, ["NAME", "a", "longe…"]),
        (3, ["NA…", "a", "lo…"]),
        (0, ["", "", ""]),
    ],
)
def test_columns_are_dropped_and_rows_never_wrapped(width: int, lines: list[str]) -> None:
    assert fitted(COLUMNS, [("a", "10", "so"), ("longername", "9", "b")], width) == lines


@pytest.mark.parametrize(
    ("text", "width", "left"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日 …"),
        ("ab", 0, ""),
    ],
)
def test_cutting(text: str, width: int, left: str) -> None:
    assert cut(text, width) == left


@pytest.mark.parametrize(
    ("values", "window", "means"),
    [([6, 0, 0], 3, [6, 3, 2]), ([None, 4, None, None], 2, [None, 4, 4, None]), ([1, 2], 1, [1, 2]), ([], 6, [])],
)
def test_what_is_drawn_is_smoothed(values: list[float | None], window: int, means: list[float | None]) -> None:
    assert smoothed(values, window) == means
