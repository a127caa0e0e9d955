"""Weekly hours: what is open when, over midnight, over the week's end, and what cannot be read."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise

import pytest

from p2pnet.errors import UsageError
from p2pnet.worker.owner.schedule import EXAMPLE, Schedule


def at(text: str) -> datetime:
    """`mon 08:00` and so on, in the week of Monday, the 5th of January 2026."""
    day, time = text.split()
    return datetime.fromisoformat(f"2026-01-{5 + DAYS.index(day):02} {time}")


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

NIGHTS = "22:00-07:00"
FREE_TIME = "sat-sun 00:00-24:00, mon-fri 19:00-08:00"

OPEN = {
    NIGHTS: ["mon 22:00", "mon 23:59:59", "tue 00:00", "wed 06:59:59", "sun 23:00", "mon 00:00", "mon 06:59"],
    "09:00-17:30": ["mon 09:00", "sun 17:29:59"],
    "00:00-24:00": ["mon 00:00", "wed 12:00", "sun 23:59:59"],
    "20:00-00:00": ["fri 20:00", "sun 23:59:59"],
    "20:00-24:00": ["fri 20:00", "sun 23:59:59"],
    "00:01-00:00": ["mon 00:01", "sun 23:59"],
    FREE_TIME: ["fri 19:00", "sat 00:00", "sat 08:00", "sun 18:00", "mon 19:00", "tue 07:59", "sat 07:59"],
    "sun 22:00-07:00": ["sun 22:00", "mon 06:59"],
    "fri-mon 10:00-11:00": ["fri 10:00", "sat 10:00", "sun 10:00", "mon 10:59"],
    "wed 10:00-11:00, wed 10:30-12:00": ["wed 10:00", "wed 11:59"],
    " MON  -  Tue 7:00 - 8:00 ,fri 9:00-10:00": ["mon 07:00", "tue 07:59", "fri 09:00"],
}
CLOSED = {
    NIGHTS: ["mon 07:00", "mon 21:59:59", "sun 12:00"],
    "09:00-17:30": ["mon 08:59:59", "mon 17:30", "mon 00:00"],
    "20:00-00:00": ["sat 00:00", "mon 00:00", "mon 19:59"],
    "20:00-24:00": ["sat 00:00", "mon 00:00", "mon 19:59"],
    "00:01-00:00": ["mon 00:00", "tue 00:00:59"],
    FREE_TIME: ["mon 08:00", "mon 18:59", "fri 18:59:59", "wed 12:00"],
    "sun 22:00-07:00": ["mon 07:00", "mon 22:00", "sun 06:00", "sat 23:00"],
    "fri-mon 10:00-11:00": ["tue 10:00", "thu 10:00", "fri 09:59", "mon 11:00"],
    "wed 10:00-11:00, wed 10:30-12:00": ["wed 12:00", "tue 10:00"],
    " MON  -  Tue 7:00 - 8:00 ,fri 9:00-10:00": ["wed 07:00", "thu 07:00", "fri 08:59"],
}
CASES = [
    (text, time, is_open)
    for table, is_open in ((OPEN, True), (CLOSED, False))
    for text, times in table.items()
    for time in times
]


@pytest.mark.parametrize(("text", "time", "is_open"), CASES)
def test_open_and_closed(text: str, time: str, is_open: bool) -> None:
    assert Schedule.parse(text).is_open(at(time)) is is_open


@pytest.mark.parametrize(
    ("text", "time", "change"),
    [
        (NIGHTS, "mon 07:00", "2026-01-05 22:00"),
        (NIGHTS, "mon 21:59:30.5", "2026-01-05 22:00"),
        (NIGHTS, "mon 22:00", "2026-01-06 07:00"),
        (NIGHTS, "sun 23:00", "2026-01-12 07:00"),
        (FREE_TIME, "mon 12:00", "2026-01-05 19:00"),
        (FREE_TIME, "fri 20:00", "2026-01-12 00:00"),  # Sunday's night is not one of those that begin on a weekday
        ("sat 10:00-11:00", "sat 11:00", "2026-01-17 10:00"),
        ("sat 10:00-11:00", "sat 10:00", "2026-01-10 11:00"),
        ("mon 10:00-11:00, mon 11:00-12:00", "mon 10:30", "2026-01-05 12:00"),
        ("00:01-00:00", "mon 00:00", "2026-01-05 00:01"),
        ("00:00-24:00", "wed 12:00", None),
        ("00:00-12:00, 12:00-00:00", "wed 12:00", None),
    ],
)
def test_the_next_change(text: str, time: str, change: str | None) -> None:
    expected = None if change is None else datetime.fromisoformat(change)
    assert Schedule.parse(text).next_change(at(time)) == expected


def test_the_next_change_is_where_it_changes() -> None:
    """At every minute of two weeks: nothing changes before it."""
    schedule = Schedule.parse("fri-mon 10:00-11:00, tue 22:00-07:00, thu 09:00-24:00")
    minutes = [
        datetime(2026, 1, 5 + day, hour, minute) for day in range(14) for hour in range(24) for minute in (0, 30)
    ]
    for time, following in pairwise(minutes):
        change = schedule.next_change(time)
        assert change is not None and change > time
        assert schedule.is_open(change) != schedule.is_open(time)
        assert (change == following) == (schedule.is_open(following) != schedule.is_open(time))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot be read"),
        ("22:00", "cannot be read"),
        ("22:00-07:00,", "cannot be read"),
        ("22-7", "cannot be read"),
        ("22:00-07:00 mon", "cannot be read"),
        ("mon,tue 10:00-11:00", "'mon' cannot be read"),
        ("mon10:00-11:00", "cannot be read"),
        ("٢٢:00-07:00", "cannot be read"),
        ("-1:00-07:00", "cannot be read"),
        ("moon 22:00-07:00", "no week has: moon"),
        ("mon-day 22:00-07:00", "no week has: day"),
        ("25:00-07:00", "no day has: 25:00"),
        ("22:60-07:00", "no day has: 22:60"),
        ("22:00-24:01", "no day has: 24:01"),
        ("24:00-07:00", "begins at 24:00"),
        ("22:00-22:00", "begins and ends at the same time"),
        ("00:00-00:00", "begins and ends at the same time"),
    ],
)
def test_what_cannot_be_read_is_said_with_an_example(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)) as raised:
        Schedule.parse(text)
    assert raised.value.fix == EXAMPLE


def test_the_example_can_be_read() -> None:
    examples = re.findall(r'"([^"]+)"', EXAMPLE)
    assert len(examples) == 2
    for example in examples:
        Schedule.parse(example)
