"""Limits what one gateway may take: whether it is served, how often, how much at the same time.

Owns the counts for each gateway; bounded, since gateways are free to invent. Knows nothing of requests or streams.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from p2pnet.config import GuardConfig
from p2pnet.errors import Busy, NotAllowed
from p2pnet.rate_limit import RateLimit
from p2pnet.records import ModelTask
from p2pnet.worker.observability.load import full
from p2pnet.worker.streams.arrivals import Arrivals
from p2pnet.worker.streams.idle import IdleStreams
from p2pnet.worker.streams.quota import Quota

PROBES_PER_MINUTE = 240.0
"""Status probes of one gateway. It needs one every few seconds; a hundred gateways at this rate cost a tenth of a
core."""

MAX_QUOTAS = 64
"""Models whose slots are counted: twice what a worker announces, since models come and go."""

MAX_SERVED = 1024
"""Gateways that are remembered for having been served: the last ones. To be served costs a request that is computed, so
an attacker who wants others forgotten pays a thousand of them."""


class Share:
    """One gateway's hold on one slot of a model."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._is_held = True

    def release(self) -> None:
        """Idempotent."""
        if self._is_held:
            self._is_held = False
            self._give_back()


class Guard:
    """Guards one worker, for all protocols together. `now_s` is a monotonic clock in seconds."""

    def __init__(self, config: GuardConfig | None = None, now_s: Callable[[], float] = time.monotonic) -> None:
        self._config = config or GuardConfig()
        self._now_s = now_s
        per_minute = self._config.max_requests_per_minute
        self._requests = None if per_minute is None else RateLimit(per_minute)
        self._probes = RateLimit(PROBES_PER_MINUTE)
        self._quotas: dict[ModelTask, Quota] = {}
        self._held: Counter[str] = Counter()
        self._served: OrderedDict[str, None] = OrderedDict()
        self.requests_arriving = Arrivals(self._served.__contains__)
        self.idle_streams = IdleStreams()
        self.probes_arriving = Arrivals(self._served.__contains__)

    @property
    def max_request_bytes(self) -> int | None:
        return self._config.max_request_bytes

    @property
    def max_request_s(self) -> float | None:
        return self._config.max_request_s

    @property
    def gateways(self) -> int:
        """How many gateways share this worker now."""
        now_s = self._now_s()
        return len(frozenset().union(*(quota.sharing(now_s) for quota in self._quotas.values())))

    def check(self, gateway: str) -> None:
        """Check a gateway before its request is even read. Raises NotAllowed, or Busy when it has asked too often."""
        self._check_listed(gateway)
        self._check_rate(gateway)

    def check_probe(self, gateway: str) -> None:
        """Check a gateway before its probe is read. Raises as `check`."""
        self._check_listed(gateway)
        now_s = self._now_s()
        if self._probes.is_spent(gateway, now_s):
            raise Busy(f"one gateway may probe this worker {PROBES_PER_MINUTE:.0f} times a minute")
        self._probes.spend(gateway, now_s)

    @contextlib.contextmanager
    def share(self, gateway: str, key: ModelTask, slots: int) -> Iterator[Share]:
        """Hold one of a model's slots for a gateway. Raises Busy when all are taken, or the gateway has its share."""
        now_s = self._now_s()
        quota = self._quota(key, now_s)
        has_part = self._has_part(quota, gateway, slots, now_s)
        if quota.taken >= slots:
            raise full(slots)
        if has_part:
            raise Busy("this gateway has its share of the slots for this model; others want theirs")
        limit = self._config.max_concurrency_per_gateway
        if limit is not None and self._held[gateway] >= limit:
            raise Busy(f"one gateway may have {limit} requests here at the same time")
        self._check_rate(gateway)  # again: others of its requests may have been read at the same time
        if self._requests is not None:
            self._requests.spend(gateway, now_s)
        quota.take(gateway)
        self._held[gateway] += 1
        share = Share(lambda: self._give_back(gateway, quota))
        try:
            yield share
        finally:
            share.release()

    def has_served(self, gateway: str) -> bool:
        """Whether a request of this gateway was answered to the end lately."""
        return gateway in self._served

    def note_served(self, gateway: str) -> None:
        """A request of this gateway was answered to the end: the next ones do not vie with strangers' to be read."""
        self._served[gateway] = None
        self._served.move_to_end(gateway)
        if len(self._served) > MAX_SERVED:
            self._served.popitem(last=False)

    def _check_listed(self, gateway: str) -> None:
        allowed = self._config.allowed_gateways
        if gateway in self._config.blocked_gateways or (allowed and gateway not in allowed):
            raise NotAllowed("the owner of this worker does not serve this gateway")

    def _check_rate(self, gateway: str) -> None:
        if self._requests is not None and self._requests.is_spent(gateway, self._now_s()):
            raise Busy(f"one gateway may ask this worker {self._config.max_requests_per_minute} times a minute")

    def _has_part(self, quota: Quota, gateway: str, slots: int, now_s: float) -> bool:
        return not quota.may_take(gateway, slots, now_s) and self._config.has_quota

    def _quota(self, key: ModelTask, now_s: float) -> Quota:
        if key not in self._quotas and len(self._quotas) >= MAX_QUOTAS:
            self._quotas = {known: quota for known, quota in self._quotas.items() if quota.sharing(now_s)}
        return self._quotas.setdefault(key, Quota())

    def _give_back(self, gateway: str, quota: Quota) -> None:
        quota.give_back(gateway, self._now_s())
        self._held[gateway] -= 1
        if not self._held[gateway]:
            del self._held[gateway]
