"""Defines who is told what becomes of each request: this one ignores it, `metrics` counts it.

Knows neither requests' texts nor whose they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2pnet.messages import Finished
from p2pnet.network.clock_watch import IN_TIME, ClockState
from p2pnet.network.interface import NOTHING_RELAYED, Relayed
from p2pnet.records import ModelCard
from p2pnet.status_messages import Status

NOT_BEGUN = Status(is_serving=False)


@dataclass(frozen=True)
class Standing:
    """How a worker is at one moment. `gateways` share it now, over so many `streams`. `owner` says whether its owner
    lets it serve, or has paused it and why. `clock` is this machine's, `relayed` what it does for other peers."""

    status: Status = NOT_BEGUN
    gateways: int = 0
    models: tuple[ModelCard, ...] = ()
    owner: str = "serving"
    is_stopping: bool = False
    streams: int = 0
    clock: ClockState = IN_TIME
    relayed: Relayed = NOTHING_RELAYED


class Observer:
    """Is told at once, in the middle of serving, and so must return at once and never raise. `model` is one that this
    worker runs; seconds are durations."""

    def first_token(self, model: str, tokens: int, waited_s: float) -> None:
        """An answer's first tokens have come, `waited_s` after the request."""

    def more_tokens(self, model: str, tokens: int, gap_s: float) -> None:
        """Further tokens have come together, `gap_s` after those before them."""

    def finished(self, model: str, finished: Finished, duration_s: float) -> None:
        """A request is complete, `duration_s` after it came."""

    def refused(self, protocol: str, code: str) -> None:
        """A stream of this protocol has ended with an error, whose code is one of `errors`."""

    def probed(self) -> None:
        """A status probe is answered."""


class Observers(Observer):
    """Tells several observers the same, one after the other."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def first_token(self, model: str, tokens: int, waited_s: float) -> None:
        for observer in self._observers:
            observer.first_token(model, tokens, waited_s)

    def more_tokens(self, model: str, tokens: int, gap_s: float) -> None:
        for observer in self._observers:
            observer.more_tokens(model, tokens, gap_s)

    def finished(self, model: str, finished: Finished, duration_s: float) -> None:
        for observer in self._observers:
            observer.finished(model, finished, duration_s)

    def refused(self, protocol: str, code: str) -> None:
        for observer in self._observers:
            observer.refused(protocol, code)

    def probed(self) -> None:
        for observer in self._observers:
            observer.probed()
