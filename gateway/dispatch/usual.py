"""Knows how long the answers of each model usually take, by the workers that have given whole ones. Keeps no clock.

What is usual for one worker is the median of the others: so none says itself what may be expected of it, nor does one
that answers often count for more than one that answers now and then. Where no other has answered it is what it was
itself before. Who breaks off, or is given up, says nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from statistics import median_low

from gateway.peers.pace import Window
from p2pnet.records import ModelTask

SAMPLES = 16
"""Answers remembered of a worker: what it is like now, and what a cached prompt and a long one make of it."""

MIN_SAMPLES = 3
"""Fewer answers, of all that are compared with, say nothing of what is usual."""

HIGH = 0.75
"""The quantile that stands for one worker: most of its answers took no longer, and one that was held up does not make
all late ones usual."""

MAX_WORKERS = 32
"""Workers remembered of a model, those that have answered last: a median of as many is as good as one of thousands."""

MAX_MODELS = 256
"""Models of which this is remembered; names are strangers' input. With as many workers for each it is some 16 MB."""

READ_TOGETHER = 128
"""Tokens of a prompt that are computed in one go, whether they are there or not. Beyond them each takes its time."""


class _Times:
    """What was measured of one worker's answers."""

    def __init__(self) -> None:
        self.first_s = Window(SAMPLES)
        self.first_s_per_token = Window(SAMPLES)
        """The same for each token of the prompt."""
        self.token_s = Window(SAMPLES)


class Usual:
    """One gateway's."""

    def __init__(self) -> None:
        self._models: OrderedDict[ModelTask, OrderedDict[str, _Times]] = OrderedDict()

    def note(
        self, key: ModelTask, peer_id: str, prompt_tokens: int, first_token_s: float, token_s: float | None
    ) -> None:
        """A worker has given a whole answer: its first token took so long, and each further one, if there was any."""
        workers = self._models.setdefault(key, OrderedDict())
        times = workers.setdefault(peer_id, _Times())
        times.first_s.note(first_token_s)
        times.first_s_per_token.note(first_token_s / (prompt_tokens + READ_TOGETHER))
        if token_s is not None:
            times.token_s.note(token_s)
        workers.move_to_end(peer_id)
        if len(workers) > MAX_WORKERS:
            workers.popitem(last=False)
        self._models.move_to_end(key)
        if len(self._models) > MAX_MODELS:
            self._models.popitem(last=False)

    def knows(self, key: ModelTask, peer_id: str) -> bool:
        """Whether it is among those that have given whole answers."""
        return peer_id in self._models.get(key, ())

    def outranks(self, key: ModelTask, peer_id: str) -> bool:
        """Whether others are, and it is not."""
        known = self._models.get(key)
        return known is not None and peer_id not in known

    def first_token_s(self, key: ModelTask, prompt_tokens: int, judged: str) -> float | None:
        """How long others than the one that is judged usually take to the first token after such a prompt: as after
        their shorter ones, in proportion to its length. None where too little is known."""

        def seconds(times: _Times) -> float:
            each_s = times.first_s_per_token.quantile(HIGH) or 0.0
            return max(times.first_s.quantile(HIGH) or 0.0, each_s * (prompt_tokens + READ_TOGETHER))

        return self._usual(key, judged, lambda times: times.first_s, seconds)

    def token_s(self, key: ModelTask, judged: str) -> float | None:
        """How long others than the one that is judged usually take for each further token."""
        return self._usual(key, judged, lambda times: times.token_s, lambda times: times.token_s.quantile(HIGH) or 0.0)

    def _usual(
        self, key: ModelTask, judged: str, samples: Callable[[_Times], Window], seconds: Callable[[_Times], float]
    ) -> float | None:
        known = {peer_id: times for peer_id, times in self._models.get(key, {}).items() if len(samples(times))}
        own = known.pop(judged, None)
        if sum(len(samples(times)) for times in known.values()) >= MIN_SAMPLES:
            return median_low(map(seconds, known.values()))
        return seconds(own) if own is not None and len(samples(own)) >= MIN_SAMPLES else None
