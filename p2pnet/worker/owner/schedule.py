"""Parses weekly hours (`--schedule`), and says whether the machine is lent at a given time.

Functions of data alone: who asks gives the wall clock's time. Hours that a change of the clock skips or repeats are
skipped or repeated, as on the wall.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from p2pnet.errors import UsageError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_OF_DAY = 24 * 60
MINUTES_OF_WEEK = 7 * MINUTES_OF_DAY
EXAMPLE = 'Write it like "22:00-07:00", or like "mon-fri 19:00-08:00, sat-sun 00:00-24:00".'

_HOURS = re.compile(
    r"(?:(?P<first>[a-z]+)(?:\s*-\s*(?P<last>[a-z]+))?\s+)?"
    r"(?P<begin>[0-9]{1,2}:[0-9]{2})\s*-\s*(?P<end>[0-9]{1,2}:[0-9]{2})"
)


@dataclass(frozen=True)
class WeekSpan:
    """Minutes of the week, from Monday 00:00: `length` of them from `begin` on, perhaps into the next week."""

    begin: int
    length: int

    def holds(self, minute: int) -> bool:
        return (minute - self.begin) % MINUTES_OF_WEEK < self.length


@dataclass(frozen=True)
class Schedule:
    """The hours in which a machine is lent."""

    spans: tuple[WeekSpan, ...]

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Parse hours separated by commas, each for all days or for those named. Raises UsageError.

        Hours over midnight belong to the day on which they begin.
        """
        return cls(tuple(span for part in text.split(",") for span in _spans(part.strip().lower())))

    def is_open(self, at: datetime) -> bool:
        """Whether the machine is lent at this local time."""
        minute = _minute_of_week(at)
        return any(span.holds(minute) for span in self.spans)

    def next_change(self, at: datetime) -> datetime | None:
        """The local time at which it opens, or closes, next. None when it is always open."""
        is_open, now = self.is_open(at), _minute_of_week(at)
        edges = {edge for span in self.spans for edge in (span.begin, span.begin + span.length)}
        start = at.replace(second=0, microsecond=0)
        for ahead in sorted((edge - now) % MINUTES_OF_WEEK or MINUTES_OF_WEEK for edge in edges):
            change = start + timedelta(minutes=ahead)
            if self.is_open(change) != is_open:
                return change
        return None


def _minute_of_week(at: datetime) -> int:
    return at.weekday() * MINUTES_OF_DAY + at.hour * 60 + at.minute


def _spans(part: str) -> list[WeekSpan]:
    found = _HOURS.fullmatch(part)
    if found is None:
        raise UsageError(f"The schedule {part!r} cannot be read.", EXAMPLE)
    begin, end = _minute_of_day(found["begin"], part), _minute_of_day(found["end"], part)
    if begin == MINUTES_OF_DAY:
        raise UsageError(f"The schedule {part!r} begins at 24:00, which is the end of a day.", EXAMPLE)
    if begin == end:
        raise UsageError(f"The schedule {part!r} begins and ends at the same time.", EXAMPLE)
    length = end - begin if end > begin else end - begin + MINUTES_OF_DAY
    return [WeekSpan(day * MINUTES_OF_DAY + begin, length) for day in _days(found["first"], found["last"], part)]


def _minute_of_day(text: str, part: str) -> int:
    hour, minute = map(int, text.split(":"))
    if minute > 59 or hour * 60 + minute > MINUTES_OF_DAY:
        raise UsageError(f"The schedule {part!r} names a time that no day has: {text}.", EXAMPLE)
    return hour * 60 + minute


def _days(first: str | None, last: str | None, part: str) -> list[int]:
    """The days from the first to the last, over the end of the week if need be."""
    if first is None:
        return list(range(7))
    for name in (first, last or first):
        if name not in DAYS:
            raise UsageError(f"The schedule {part!r} names a day that no week has: {name}.", EXAMPLE)
    begin = DAYS.index(first)
    count = (DAYS.index(last or first) - begin) % 7 + 1
    return [(begin + number) % 7 for number in range(count)]
