"""Writes the tables of docs/nat.md from what a deep run of tests/nat has measured.

P2PNET_NAT_RESULTS=nat.jsonl make test-deep ARGS="tests/nat"
python scripts/nat_docs.py nat.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs" / "nat.md"
WAYS = {"direct": "directly", "punched": "directly: each dials the other", "relayed": "through the relay"}
PRIVATE = "The same for members of a private swarm, on a bootstrap that is none:"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main() -> None:
    measured = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    cells = [row for row in measured if row["story"] == "cell"]
    private = [row for row in measured if row["story"] == "private cell"]
    mishaps = [row for row in measured if "way" not in row]
    before, rest = DOCS.read_text().split(BEGIN)
    after = rest.split(END)[1]
    DOCS.write_text(
        f"{before}{BEGIN}\n\n{_cells(cells)}\n\n{PRIVATE}\n\n{_cells(private)}\n\n{_mishaps(mishaps)}\n\n{END}{after}"
    )


def _cells(cells: list[dict[str, Any]]) -> str:
    rows = ["| worker | gateway | bytes go | first token after the worker's start | 10 MB |", "|---|---|---|---|---|"]
    for cell in cells:
        times = f"{cell['first_s']:.1f} s | {cell['took_s']:.1f} s"
        rows.append(f"| {cell['worker']} | {cell['gateway']} | {WAYS[cell['way']]} | {times} |")
    return "\n".join(rows)


def _mishaps(mishaps: list[dict[str, Any]]) -> str:
    rows = ["| what happens | served again, or silent, for |", "|---|---|"]
    rows += [f"| {mishap['story']} | {mishap['seconds']:.1f} s |" for mishap in mishaps]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
