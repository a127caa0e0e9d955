"""Decides what the failures of one request come to, and what its client is told in the end."""

from __future__ import annotations

from p2pnet.errors import (
    Busy,
    DeadlineExceeded,
    FeatureMissing,
    ModelNotFound,
    NoWorker,
    P2PNetError,
    RequestError,
    WorkerFailed,
)

MAX_BREAKS = 64
"""Times that one answer may break off, whatever came between. Each costs a worker the reading of all that was said: an
answer that breaks off more often costs more than it brings, and a client that is told so can ask for less."""

MAX_FAILURES = 8
"""Workers that may fail a request in a row without a token. When eight do, waiting helps more than a ninth."""

MAX_WORKER_FAILURES = 3
"""Workers that may say that they failed at a request in a row: then it is the request that they fail at."""


class FailurePolicy:
    """One request's. A worker that is busy has not failed it."""

    def __init__(self, model: str) -> None:
        self.refusal: P2PNetError | None = None
        """What a worker finds wrong with the request: the client is told if nobody else can be asked."""
        self._model = model
        self._failures: list[P2PNetError] = []
        """Since the last token."""
        self._breaks = 0
        self._was_busy = False
        self._has_begun = False

    def note_moved(self) -> None:
        """The answer has moved on before it broke off. What went wrong before that is forgotten, but not how often it
        has broken off: raises NoWorker when that is too often."""
        self.refusal, self._failures, self._was_busy = None, [], False
        self._breaks += 1
        if self._breaks >= MAX_BREAKS:
            raise NoWorker(f"This answer of {self._model} broke off {self._breaks} times. Ask again, for less at once.")

    def note(self, error: P2PNetError, has_begun: bool) -> None:
        """One more. Raises what the client is to be told when another try is no use. `has_begun`: the client has a part
        of the answer, so somebody has understood the request, and what this worker finds wrong with it is no verdict.
        """
        self._has_begun = self._has_begun or has_begun
        if isinstance(error, Busy):
            self._was_busy = True
            return
        is_refusal = isinstance(error, RequestError) and not error.may_retry and not has_begun
        if is_refusal and error.is_hearsay and self.refusal is None:
            self.refusal = error
            return
        self._failures.append(error)
        if not error.may_retry and not (has_begun and isinstance(error, RequestError)):
            raise error
        newest = self._failures[-MAX_WORKER_FAILURES:]
        if len(newest) == MAX_WORKER_FAILURES and all(isinstance(each, WorkerFailed) for each in newest):
            raise error
        if len(self._failures) >= MAX_FAILURES:
            raise self.verdict()

    def verdict(self, waited: P2PNetError | None = None) -> P2PNetError:
        """What the client is told when there is nobody left to try. `waited` is what its waiting ended with."""
        if self.refusal is not None:
            return self.refusal
        model, failures = self._model, self._failures
        # A part of the answer has shown that the request can be served: it is not at fault then.
        if failures and not self._has_begun and all(map(_says_it_cannot, failures)):
            if all(isinstance(error, ModelNotFound) for error in failures):
                return ModelNotFound(f"No worker runs the model {model} any more.", "model")
            if not self._was_busy:
                return next(error for error in failures if isinstance(error, FeatureMissing))
        if self._was_busy or not failures:
            return waited or Busy(f"All workers of the model {model} are busy. Try again in a moment.")
        codes = ", ".join(sorted({error.code for error in failures}))
        if isinstance(waited, DeadlineExceeded):
            message = f"No worker of the model {model} could be used for as long as this request could wait ({codes})."
            return DeadlineExceeded(f"{message} Try again in a moment.", waited.retry_after_s)
        return NoWorker(f"No worker of the model {model} could be used ({codes}). Try again in a moment.")


def _says_it_cannot(error: P2PNetError) -> bool:
    return isinstance(error, FeatureMissing | ModelNotFound)
