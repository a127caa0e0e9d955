"""Connections that say nothing: the example of an attack."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from bench.harness.attacks import silent_sockets
from bench.harness.siege import Besieged, assert_held, siege
from tests.depth import scaled

SECONDS = scaled(ci=2.0, deep=20.0)
CONNECTIONS = scaled(ci=200, deep=1000)


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=1) as made:
        yield made


async def test_silent_sockets_disturb_nobody(besieged: Besieged) -> None:
    """Given honest requests, when hundreds of connections to the bootstrap say nothing, then all aims are held."""
    assert_held(await besieged.withstand(partial(silent_sockets.attack, connections=CONNECTIONS), SECONDS))
