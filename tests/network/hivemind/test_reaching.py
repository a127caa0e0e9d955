"""When a machine is in another network than before."""

from __future__ import annotations

import pytest

from p2pnet.network.hivemind.reaching import has_moved

FOUR, OTHER_FOUR = "192.168.1.5", "10.0.0.7"
SIX, ITS_NEXT, OTHER_SIX = "2600:1::5", "2600:1::6", "2600:2::5"


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({FOUR}, {OTHER_FOUR}, True),
        ({FOUR}, set(), True),
        ({FOUR}, {FOUR, OTHER_FOUR}, True),
        ({FOUR, SIX}, {FOUR, SIX, ITS_NEXT}, False),
        ({FOUR, SIX, ITS_NEXT}, {FOUR, ITS_NEXT}, False),
        ({FOUR}, {FOUR, SIX}, False),
        ({FOUR, SIX}, {FOUR, OTHER_SIX}, True),
        ({FOUR, SIX}, {FOUR}, True),
        ({SIX}, {SIX}, False),
        ({SIX}, {OTHER_SIX}, True),
    ],
)
def test_addresses_of_a_machine(before: set[str], now: set[str], expected: bool) -> None:
    assert has_moved(frozenset(before), frozenset(now)) is expected
