"""Everybody who stops leaves nothing behind, and a network does without its bootstrap."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.asking import KEY_FACT, ask, models
from tests.e2e.scripted import scripted
from tests.processes import processes, wait_until

pytestmark = pytest.mark.timeout(300)


async def test_peers_find_each_other_when_the_bootstrap_is_gone() -> None:
    """Given two workers whose bootstrap has stopped, when a third joins through the first and a gateway through the
    second, then the gateway finds the third and gets its answer."""
    with processes("orphans") as start:
        bootstrap = start.bootstrap()
        address = bootstrap.ready.address
        first, second = (scripted(start, address, name, KEY_FACT) for name in ("first", "second"))
        first.wait_ready()
        second.wait_ready()
        assert bootstrap.stop() == 0
        assert bootstrap.leftovers() == []

        third = scripted(start, first.ready.address, "third", KEY_FACT)
        gateway = start.gateway(peer=second.ready.address)
        third.wait_ready()
        url = gateway.ready.http or ""
        wait_until(lambda: models(url) == ["first", "second", "third"], "the gateway lists all three")
        assert KEY_FACT in ask(url, "third")
        assert gateway.stop(signal.SIGINT) == 0
        for worker, number in ((first, signal.SIGINT), (second, signal.SIGTERM), (third, signal.SIGINT)):
            assert worker.stop(number) == 0
        for process in (gateway, first, second, third):
            assert process.leftovers() == []


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.deep)], ids=["SIGINT", "SIGTERM"]
)
def test_bootstrap_and_gateway_leave_nothing_behind(number: signal.Signals) -> None:
    with processes("tidy") as start:
        bootstrap = start.bootstrap()
        gateway = start.gateway(peer=bootstrap.ready.address)
        gateway.wait_ready()
        assert gateway.daemon_pid is not None
        for process in (gateway, bootstrap):
            assert process.stop(number) == 0
            assert process.leftovers() == []
