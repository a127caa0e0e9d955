"""What `p2pnet doctor` prints of a verdict, on terminals of any width and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from p2pnet.cli.doctor import show
from p2pnet.doctor.verdict import failed

PEER = "/ip4/203.0.113.7/udp/31337/quic-v1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
VERDICT = failed(
    "peers", f"none of the initial peers answers, and {PEER} least of all", "Ask for well-known addresses."
)


def shown(width: int, is_terminal: bool) -> list[str]:
    file = io.StringIO()
    show(VERDICT, Console(file=file, width=width, force_terminal=is_terminal, color_system=None))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_on_a_terminal_lines_end_between_words(width: int) -> None:
    lines = shown(width, is_terminal=True)
    assert " ".join(" ".join(lines).split()) == f"failed peers {VERDICT.says} fix: {VERDICT.fix}"
    assert all(len(line) <= width or PEER in line for line in lines)
    assert [line[:19].split() for line in lines if line[:19].strip()] == [["failed", "peers"], ["fix:"]]


def test_a_program_reads_a_line_for_each() -> None:
    assert len(shown(20, is_terminal=False)) == 2
