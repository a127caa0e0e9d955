"""Sets rows of text in columns that fit a width.

Knows nothing of what stands in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from rich.cells import cell_len, set_cell_size

from p2pnet.display.printable import printable

GAP = "  "
SHADES = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Column:
    """`importance`: the lowest is dropped first. The first column of a table is never dropped."""

    title: str
    importance: int = 0
    is_number: bool = False
    max_width: int = 40


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A heading, then a line for each row, none of them wider than `width` cells. Cells are strangers' text: what is
    not printable in them becomes a space."""
    cells = [[printable(text) for text in row] for row in rows]
    widths = [_natural_width(column, [row[index] for row in cells]) for index, column in enumerate(columns)]
    kept = _kept(columns, widths, width)
    heading = [column.title for column in columns]
    return [_line(columns, widths, kept, row, width) for row in (heading, *cells)]


def cut(text: str, width: int) -> str:
    """The text with its end cut off, and a mark there, where it is wider than `width` cells."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width > 1 else "…"[:width]


def smoothed(values: Sequence[float | None], window: int) -> list[float | None]:
    """The mean of each value and of those before it, `window` in all. Unknown ones say nothing."""
    spans = (values[max(0, at + 1 - window) : at + 1] for at in range(len(values)))
    return [_mean([value for value in span if value is not None]) for span in spans]


def sparkline(values: Sequence[float | None], width: int) -> str:
    """One character for each bucket of values, as high as the highest of them; a space where there are none."""
    per_bucket = max(1, ceil(len(values) / width)) if width > 0 else 1
    first = len(values) % per_bucket
    starts = range(first - per_bucket if first else 0, len(values), per_bucket)
    buckets = [[value for value in values[max(0, at) : at + per_bucket] if value is not None] for at in starts]
    highest = max((max(bucket) for bucket in buckets if bucket), default=0.0)
    return "".join(_shade(max(bucket), highest) if bucket else " " for bucket in buckets)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _shade(value: float, highest: float) -> str:
    if highest <= 0 or value <= 0:
        return SHADES[0]
    return SHADES[min(len(SHADES) - 1, max(0, ceil(value / highest * len(SHADES)) - 1))]


def _natural_width(column: Column, cells: Sequence[str]) -> int:
    return min(column.max_width, max(map(cell_len, (column.title, *cells))))


def _kept(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    kept = list(range(len(columns)))
    while len(kept) > 1 and sum(widths[index] for index in kept) + len(GAP) * (len(kept) - 1) > width:
        kept.remove(min(kept[1:], key=lambda index: (columns[index].importance, -index)))
    return kept


def _line(columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int], row: Sequence[str], width: int) -> str:
    parts = []
    for index in kept:
        text = cut(row[index], widths[index])
        space = " " * (widths[index] - cell_len(text))
        parts.append(space + text if columns[index].is_number else text + space)
    return cut(GAP.join(parts).rstrip(), width)
