"""Decides whether a worker may be asked for a model: a circuit breaker. A function of what happened and when.

    HEALTHY  --it is gone, or fails too often-->  COOLING  --its time is over, or it announces itself-->  TRIAL
    TRIAL    --one request's first part comes-->  HEALTHY,  --it fails-->  COOLING, for twice as long

In TRIAL one request at a time may go there. An answer may take minutes, so its first part ends the trial; and the
cooling too, when it was asked for since then, there being nobody better. A worker that was absent once, and answers
a probe, is back, and needs no trial. The next cooldown is as long as the first one again after a whole answer, or once
the failures before it are forgiven.
(Nygard, Release It!, 2007: closed, open, half-open.)

One breaker is of the worker as a whole, and one of each of its models. What says that the worker is gone counts for all
of them; a model that fails, or keeps silent while its worker answers, is left alone by itself.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

COOLDOWN_S = 3.0
MAX_COOLDOWN_S = 60.0
"""A worker that failed is asked again after 3 s, and after twice as long with each further failure, up to a minute: one
that comes back is used soon, one that is gone costs little. Until then a probe has shown whether it is there at all:
one is due within a second and takes 1.5 s at most."""

FORGIVEN_S = 10.0
"""A worker that has been well for this long since its trial has one of its failures forgiven, and one more for each
time it is so again: answers that take minutes must not count for less than one that took a second. (Envoy's outlier
detection forgives in the same way, and as fast.)"""

RECENT = 20
"""How many of the last requests the failure rate is of."""

MIN_RECENT = 10
MAX_FAILURE_RATE = 0.5
"""A worker that fails every other request is no use, even if it never fails twice in a row."""

MAX_FAILURES_IN_ROW = 3
"""Of requests that a worker said it failed at: one such request may be at fault itself, and must not close workers."""

ABSENCE = frozenset({"peer_lost", "peer_unreachable", "no_answer"})
"""Reasons that a worker's answer to a probe disproves. Of the others (it broke the protocol, it failed at requests) a
probe says nothing."""

TRIAL_S = 30.0
"""A trial that has not ended after this time does not keep others from trying."""


LATE_S = 0.5
"""A worker that was late a moment ago is late. Requests there are looked at more often than this."""


class State(Enum):
    HEALTHY = "healthy"
    COOLING = "cooling"
    TRIAL = "trial"


class Health:
    """The health of one worker as a whole, or of one of its models. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._cooldowns = 0
        self._cooling_until_s: float | None = None
        self._failed_s = float("-inf")
        self._trial_began_s = float("-inf")
        self._trial_until_s = 0.0
        self._well_since_s: float | None = None
        self.has_served = False
        """Whether a request of ours has ever succeeded there."""
        self._late_until_s = float("-inf")
        self.reason: str | None = None
        """Why it cools, or is on trial: the code of the last error."""

    @property
    def cooling_until_s(self) -> float | None:
        return self._cooling_until_s

    @property
    def is_missed(self) -> bool:
        """It was absent once, so an answer to a probe would show that it is back. One that is always there and still
        loses every request waits for its time to be over, and for a trial, as any other."""
        return self._cooling_until_s is not None and self.reason in ABSENCE and self._cooldowns <= 1

    @property
    def success_rate(self) -> float | None:
        """The share of the last requests that succeeded; None before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    def state(self, now_s: float) -> State:
        if self._cooling_until_s is None:
            return State.HEALTHY
        return State.COOLING if now_s < self._cooling_until_s else State.TRIAL

    def may_take(self, now_s: float) -> bool:
        """Whether a request may go there as to any other."""
        if now_s < self._late_until_s:
            return False
        state = self.state(now_s)
        return state is State.HEALTHY or (state is State.TRIAL and now_s >= self._trial_until_s)

    def note_start(self, now_s: float) -> None:
        """A request goes there now."""
        if self._cooling_until_s is not None:
            self._trial_began_s = now_s
            self._trial_until_s = now_s + TRIAL_S

    def note_release(self, asked_s: float) -> None:
        """A request that was sent at `asked_s` said nothing of its health: it was busy, or the client went away. One
        from before the trial is not the one that the trial waits for."""
        if asked_s >= self._trial_began_s:
            self._trial_until_s = 0.0

    def note_begun(self, now_s: float, asked_s: float) -> None:
        """The first part of an answer has come from there, to a request that was sent at `asked_s`. To one from before
        the last failure it says nothing while the worker cools: it may have been under way already."""
        state = self.state(now_s)
        if state is State.TRIAL or (state is State.COOLING and asked_s > self._failed_s):
            self._end_trouble(well_since_s=now_s)

    def note_success(self) -> None:
        self.has_served = True
        self._recent.append(True)
        self._cooldowns = 0
        self._end_trouble(well_since_s=None)

    def note_failure(self, now_s: float, reason: str, is_gone: bool = True) -> None:
        """A request failed there. A worker that is gone, or breaks the protocol, is left alone at once; one that says
        itself that it failed, when that happens often. Failures of requests that were under way together count once."""
        self._recent.append(False)
        self._failed_s = now_s
        self._trial_until_s = 0.0
        if self._cooling_until_s is not None and now_s < self._cooling_until_s:
            return
        if not is_gone and self._cooling_until_s is None and not self._fails_often():
            return
        self.reason = reason
        self._forgive(now_s)
        pause_s = min(MAX_COOLDOWN_S, COOLDOWN_S * 2 ** min(self._cooldowns, 16))
        self._cooldowns += 1
        self._cooling_until_s = now_s + pause_s

    def note_late(self, now_s: float) -> None:
        """A request there is late, and may be stuck: others go elsewhere, until it has not been late for a moment."""
        self._late_until_s = now_s + LATE_S

    def note_doubt(self, now_s: float, reason: str, asked_s: float) -> None:
        """Another worker did what this one, asked at `asked_s`, was late with or said cannot be done. Honest ones are
        late now and then, and may be right: so it counts as a failure that a worker says itself, and those of requests
        that were under way together count once."""
        if asked_s > self._failed_s:
            self.note_failure(now_s, reason, is_gone=False)

    def note_announced(self, now_s: float) -> None:
        """It announced itself anew, so it runs: whether it can be reached a trial may show at once."""
        if self.is_missed and self.state(now_s) is State.COOLING:
            self._cooling_until_s = now_s

    def note_answered(self, now_s: float) -> None:
        """It answered a probe, so it runs and can be reached."""
        if self.is_missed:
            self._end_trouble(well_since_s=now_s)

    def note_unanswered(self, now_s: float) -> None:
        """It did not answer a probe. If it was missed already, this is no further failure."""
        if self.is_missed:
            self._trial_until_s = 0.0
            self._cooling_until_s = now_s + COOLDOWN_S
        else:
            self.note_failure(now_s, "no_answer")

    def _forgive(self, now_s: float) -> None:
        if self._well_since_s is not None:
            self._cooldowns = max(0, self._cooldowns - int((now_s - self._well_since_s) / FORGIVEN_S))
            self._well_since_s = None

    def _end_trouble(self, well_since_s: float | None) -> None:
        """`well_since_s` counts for failures that are still to be forgiven: None where there is none."""
        self._well_since_s = well_since_s
        self._cooling_until_s = None
        self._trial_until_s = 0.0
        self.reason = None

    def _fails_often(self) -> bool:
        newest = list(self._recent)[-MAX_FAILURES_IN_ROW:]
        if len(newest) == MAX_FAILURES_IN_ROW and not any(newest):
            return True
        return len(self._recent) >= MIN_RECENT and 1 - sum(self._recent) / len(self._recent) >= MAX_FAILURE_RATE


class ModelHealth:
    """The health of one model at one worker: its own, and that of the worker as a whole."""

    def __init__(self, worker: Health) -> None:
        self._worker = worker
        self._own = Health()

    @property
    def cooling_until_s(self) -> float | None:
        times = [health.cooling_until_s for health in self._both if health.cooling_until_s is not None]
        return max(times, default=None)

    @property
    def reason(self) -> str | None:
        return self._worker.reason or self._own.reason

    @property
    def success_rate(self) -> float | None:
        return self._own.success_rate

    def state(self, now_s: float) -> State:
        """The worse of the two."""
        states = {health.state(now_s) for health in self._both}
        return next(state for state in (State.COOLING, State.TRIAL, State.HEALTHY) if state in states)

    def may_take(self, now_s: float) -> bool:
        return self._worker.may_take(now_s) and self._own.may_take(now_s)

    def note_start(self, now_s: float) -> None:
        for health in self._both:
            health.note_start(now_s)

    def note_release(self, asked_s: float) -> None:
        for health in self._both:
            health.note_release(asked_s)

    def note_begun(self, now_s: float, asked_s: float) -> None:
        for health in self._both:
            health.note_begun(now_s, asked_s)

    def note_success(self) -> None:
        for health in self._both:
            health.note_success()

    def note_failure(
        self,
        now_s: float,
        reason: str,
        is_gone: bool = True,
        is_there: bool = False,
        asked_s: float = float("inf"),
    ) -> None:
        """`is_there`: the worker has been heard since. Then it is not gone, whatever the reason says. The request was
        sent at `asked_s`: as the last one, where that is not said."""
        if reason in ABSENCE and not is_there:
            self._worker.note_failure(now_s, reason, is_gone)
            self._own.note_release(asked_s)
        else:
            self._own.note_failure(now_s, reason, is_gone)
            self._worker.note_release(asked_s)

    def note_late(self, now_s: float) -> None:
        self._own.note_late(now_s)

    def note_doubt(self, now_s: float, reason: str, asked_s: float) -> None:
        self._own.note_doubt(now_s, reason, asked_s)

    @property
    def _both(self) -> tuple[Health, Health]:
        return self._worker, self._own
