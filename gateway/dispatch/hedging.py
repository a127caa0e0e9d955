"""Decides when a second worker is asked for an answer whose first token is late. Asks nobody.

Dean and Barroso, "The Tail at Scale" (2013): a second request sent after the usual 95th percentile costs a few per cent
of work and cuts most of the tail.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.peers.pace import Window
from p2pnet.records import ModelTask

USUAL = 0.95
"""The quantile of times to the first token beyond which one is late."""

MIN_SAMPLES = 20
"""Fewer first tokens say nothing of their 95th percentile."""

MAX_EXTRA_WORK = 0.05
"""Second requests for each request, over time."""

MAX_SAVED = 5.0
"""Second requests that may be saved up while none was needed: a burst of late ones is answered by no more."""

UNKNOWN_DELAY_S = 20.0
"""How long a first token is waited for where it is not known how long they usually take: a long prompt on a laptop."""

MIN_DELAY_S = 0.02
"""Nobody notices less."""

MAX_MODELS = 1024
"""Models of which times are kept; names are strangers' input."""


class Hedging:
    """One gateway's."""

    def __init__(self) -> None:
        self._first_tokens: OrderedDict[ModelTask, Window] = OrderedDict()
        self._credit = 1.0

    def note_request(self) -> None:
        self._credit = min(MAX_SAVED, self._credit + MAX_EXTRA_WORK)

    def note_first_token(self, key: ModelTask, seconds: float) -> None:
        """How long a worker took for its first token, waiting in our queue not counted."""
        self._first_tokens.setdefault(key, Window()).note(seconds)
        self._first_tokens.move_to_end(key)
        if len(self._first_tokens) > MAX_MODELS:
            self._first_tokens.popitem(last=False)

    def delay_s(self, key: ModelTask) -> float:
        """How long to wait for a first token before a second worker is asked."""
        window = self._first_tokens.get(key)
        usual_s = None if window is None or len(window) < MIN_SAMPLES else window.quantile(USUAL)
        return UNKNOWN_DELAY_S if usual_s is None else max(MIN_DELAY_S, usual_s)

    def spend(self) -> bool:
        """Whether a second request may be sent; if so it is counted."""
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
