"""Who gives up the place of an idle stream when there are many."""

from __future__ import annotations

from contextlib import ExitStack

from p2pnet.worker.streams.idle import MAX_IDLE_PER_GATEWAY, MAX_IDLE_STREAMS, IdleStreams


class Ledger:
    """Places by name, and who had to go, in order."""

    def __init__(self) -> None:
        self.idle = IdleStreams()
        self.gone: list[str] = []
        self.held: dict[str, ExitStack] = {}

    def take(self, name: str, gateway: str) -> None:
        self.held[name] = ExitStack()
        self.held[name].enter_context(self.idle.place(gateway, lambda: self.gone.append(name)))


def test_a_place_is_given_back() -> None:
    ledger = Ledger()
    ledger.take("a", "one")
    ledger.held["a"].close()
    ledger.held["a"].close()
    assert (len(ledger.idle), ledger.gone) == (0, [])


def test_a_gateway_with_many_gives_up_its_own_oldest() -> None:
    ledger = Ledger()
    ledger.take("other's", "two")
    for number in range(MAX_IDLE_PER_GATEWAY + 2):
        ledger.take(str(number), "one")
    assert ledger.gone == ["0", "1"]
    ledger.held["0"].close()
    assert len(ledger.idle) == MAX_IDLE_PER_GATEWAY + 1


def test_of_all_gateways_the_oldest_goes() -> None:
    ledger = Ledger()
    for number in range(MAX_IDLE_STREAMS):
        ledger.take(str(number), str(number))
    ledger.take("new", "new")
    assert (ledger.gone, len(ledger.idle)) == (["0"], MAX_IDLE_STREAMS)


def test_all_go_at_the_end() -> None:
    ledger = Ledger()
    for name in "abc":
        ledger.take(name, name)
    ledger.idle.close()
    assert (ledger.gone, len(ledger.idle)) == (["a", "b", "c"], 0)
    ledger.take("late", "a")
    assert (ledger.gone, len(ledger.idle)) == (["a", "b", "c", "late"], 0)
