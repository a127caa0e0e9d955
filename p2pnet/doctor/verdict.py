"""Defines the verdict of one check: a line that says how it is, and a fix where it is not well.

Knows nothing of what is checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, but not as well as it could; or it could not be looked at."""
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    """What one check found. `says` is a sentence without its full stop; `fix` is one with it."""

    check: str
    level: Level
    says: str
    fix: str | None = None


def ok(check: str, says: str) -> Verdict:
    return Verdict(check, Level.OK, says)


def warning(check: str, says: str, fix: str) -> Verdict:
    return Verdict(check, Level.WARNING, says, fix)


def failed(check: str, says: str, fix: str) -> Verdict:
    return Verdict(check, Level.FAILED, says, fix)


def exit_status(verdicts: Iterable[Verdict]) -> int:
    """0 unless something has failed."""
    return int(any(verdict.level is Level.FAILED for verdict in verdicts))
