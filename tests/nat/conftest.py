"""A public segment for each story, and what starts peers on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nat.topology import Topology, topology
from tests.processes import Start, processes
from tests.requirements import requires_network_namespaces, requires_tools


@pytest.fixture
def segment() -> Iterator[Topology]:
    requires_network_namespaces()
    requires_tools("curl")
    with topology() as made:
        yield made


@pytest.fixture
def start() -> Iterator[Start]:
    with processes("nat") as starting:
        yield starting
        starting.print_logs()
