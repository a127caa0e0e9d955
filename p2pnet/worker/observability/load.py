"""Counts slots, model by model, and measures the worker's speed.

Knows nothing of requests or of the network; its clocks are passed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

from p2pnet.errors import Busy
from p2pnet.messages import Finished, Load, Measure
from p2pnet.network.interface import Clock
from p2pnet.records import ModelTask
from p2pnet.worker.catalogue import Catalogue, newest
from p2pnet.worker.observability.observer import Observer
from p2pnet.worker.speed import StreamSpeed, averaged

Monotonic = Callable[[], float]

FIRST_TOKEN_SMOOTHING = 0.2
"""Weight of the newest request in the moving average: about the last ten requests count."""

ASIDE = frozenset({"score", "tokenize"})
"""What is asked of a model beside its task: computed behind all answers, or not computed at all. Nobody else could wait
for its slots, so that a load does not count them."""

SPEED_MEMORY_S = 30.0
"""Of computing: what came this long ago weighs a third of what comes now."""

MIN_SPEED_S = 0.1
"""Of computing: less than that says nothing of a worker's speed."""


class Slot:
    """One request's slot, from the request's arrival to its end, and what its stream has shown so far."""

    def __init__(self, meter: LoadMeter, key: ModelTask, has_own_speed: bool, arrived_s: float) -> None:
        self._meter = meter
        self._key = key
        self._has_own_speed = has_own_speed
        self._arrived_s = arrived_s
        self._token_s: float | None = None
        self._when_released: list[Callable[[], None]] = []
        self._is_held = True
        self.is_computing = False

    def begin(self) -> None:
        """Note that the request computes now, and waits no longer. Idempotent."""
        if not self.is_computing:
            self.is_computing = True
            self._meter._begin(self._has_own_speed)

    def when_released(self, action: Callable[[], None]) -> None:
        """Call `action` when the slot is given back. It must bear to be called more than once."""
        self._when_released.append(action)

    def note_tokens(self, tokens: int) -> None:
        """Note that so many more tokens have come. The first ones say how long they took to come, further ones how fast
        they follow one another."""
        if not tokens:
            return
        if not self.is_computing:
            self.begin()
            self._meter._note_first_token(self._arrived_s)
        elif not self._has_own_speed:
            self._meter._decode.note(tokens)
        self._observe_tokens(tokens)

    def finish(self, finished: Finished) -> None:
        """Note that the answer is complete. Call it before the last frame is sent: who has read that frame may ask
        again at once."""
        meter = self._meter
        meter.requests_served += 1
        meter.tokens_served += finished.usage.completion_tokens
        meter.observer.finished(self._key[0], finished, meter._now_s() - self._arrived_s)
        self.release()

    def release(self) -> None:
        """Give it back. Idempotent."""
        if self.is_computing:
            self.is_computing = False
            self._meter._end(self._has_own_speed)
        if self._is_held:
            self._is_held = False
            self._meter._free(self._key)
        for action in self._when_released:
            action()

    def _observe_tokens(self, tokens: int) -> None:
        model, now_s = self._key[0], self._meter._now_s()
        if self._token_s is None:
            self._meter.observer.first_token(model, tokens, now_s - self._arrived_s)
        else:
            self._meter.observer.more_tokens(model, tokens, now_s - self._token_s)
        self._token_s = now_s


class LoadMeter:
    """The slots of one worker, the same number for each model, and its speed."""

    def __init__(
        self,
        most_slots_per_model: int,
        catalogue: Catalogue,
        now_ms: Clock,
        now_s: Monotonic = time.monotonic,
        observer: Observer | None = None,
    ) -> None:
        self._most_slots_per_model = most_slots_per_model
        self.observer = observer or Observer()
        self._catalogue = catalogue
        self._now_ms = now_ms
        self._now_s = now_s
        self._held: Counter[ModelTask] = Counter()
        self._open = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._decode = StreamSpeed(now_s, now_ms, SPEED_MEMORY_S, MIN_SPEED_S)
        self._first_token = Measure()
        self.running = 0
        """Requests whose tokens are coming."""
        self.requests_served = 0
        self.tokens_served = 0

    @property
    def slots_per_model(self) -> int:
        """No more than a server behind it has: who waits, waits where the queue is known."""
        return min(self._most_slots_per_model, self._catalogue.load.slots or self._most_slots_per_model)

    @property
    def load(self) -> Load:
        """How busy the worker is now, over all its models. If backends measure how fast they decode, their measure
        stands; only they can measure prefill."""
        backends = self._catalogue.load
        return Load(
            running=self.running,
            queued=sum(held for (_, task), held in self._held.items() if task not in ASIDE) - self.running,
            slots=self.slots_per_model * len(self._catalogue.cards()),
            sampled_ms=self._now_ms(),
            kv_free_tokens=backends.kv_free_tokens,
            kv_total_tokens=backends.kv_total_tokens,
            decode_tokens_per_s=newest((backends.decode_tokens_per_s, self._decode.measure)),
            prefill_tokens_per_s=backends.prefill_tokens_per_s,
            first_token_s=self._first_token,
        )

    async def wait_idle(self) -> None:
        await self._is_idle.wait()

    @contextlib.contextmanager
    def slot(self, model: str, task: str = "generate", has_own_speed: bool = False) -> Iterator[Slot]:
        """Hold one of the slots of a model that this worker runs. Raises Busy when all are taken: other models are
        not touched by that. `has_own_speed` when its backend measures how fast it decodes."""
        key = (model, task)
        if self._held[key] >= self.slots_per_model:
            raise full(self.slots_per_model)
        self._held[key] += 1
        self._open += 1
        self._is_idle.clear()
        slot = Slot(self, key, has_own_speed, self._now_s())
        try:
            yield slot
        finally:
            slot.release()
            self._open -= 1
            if not self._open:
                self._is_idle.set()

    def _begin(self, has_own_speed: bool) -> None:
        self.running += 1
        if not has_own_speed:
            self._decode.begin()

    def _end(self, has_own_speed: bool) -> None:
        self.running -= 1
        if not has_own_speed:
            self._decode.end()

    def _free(self, key: ModelTask) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]  # models come and go

    def _note_first_token(self, arrived_s: float) -> None:
        self._first_token = averaged(
            self._first_token, self._now_s() - arrived_s, self._now_ms(), FIRST_TOKEN_SMOOTHING
        )


def full(slots: int) -> Busy:
    """The error that says that no more slots of a model can be had."""
    return Busy(f"all {slots} slots for this model are taken")
