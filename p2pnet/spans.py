"""Spans of a model's layers, and which layers nobody has. Decides on data; knows nothing of who has which layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[int, int]
"""Layers [first, last): the last number is not among them."""


def missing(spans: Iterable[Span], layers: int) -> tuple[Span, ...]:
    """The parts of a model of so many layers that are in none of these spans, in order."""
    gaps: list[Span] = []
    covered = 0
    for first, last in sorted(spans):
        if first >= layers:
            break
        if first > covered:
            gaps.append((covered, first))
        covered = max(covered, last)
    return (*gaps, (covered, layers)) if covered < layers else tuple(gaps)


def in_words(gaps: Sequence[Span]) -> str:
    """What is missing, for people: `layers 12 to 18 are missing`, the last number not among them."""
    return "layers " + " and ".join(f"{first} to {last}" for first, last in gaps) + " are missing"
