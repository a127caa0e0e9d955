"""Who is told what becomes of each request: this one listens to nothing, `metrics` counts it all.

Knows neither requests' texts nor whose they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pnet.messages import Finished, Status

NOT_BEGUN = Status(is_serving=False)


@dataclass(frozen=True)
class Standing:
    """How a worker is at one moment. `gateways` share it now."""

    status: Status = NOT_BEGUN
    gateways: int = 0


class Observer:
    """Told at once, in the middle of serving: must return at once, and never raise. `model` is one that this worker
    runs; seconds are durations."""

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
