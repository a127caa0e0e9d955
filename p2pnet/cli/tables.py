"""Prints tables so that what people copy from them is whole: names, ids and digests are neither cut nor broken."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from p2pnet.display.wrapping import between_words

WIDEST = 100_000
"""What a table may want to be measured at: more than any is."""

INDENT = 2
"""Before what stands behind the first cell."""


def print_table(table: Table, console: Console) -> None:
    """Print the table, as wide as it is where a program reads it. On a screen that is narrower, row by row: the first
    cell on a line of its own, and what the others say behind it, in lines that end between words."""
    width = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    if not console.is_terminal:
        console.width = max(console.width, width)
    if width <= console.width:
        console.print(table)
        return
    for line in _lines(table):
        console.print(between_words(line, console.width, INDENT), soft_wrap=True, highlight=False)


def _lines(table: Table) -> Iterator[str]:
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        said = zip((column.header for column in table.columns[1:]), others, strict=True)
        yield str(first)
        yield " " * INDENT + ", ".join(f"{str(header).lower()}: {cell}" for header, cell in said if cell)
