"""Maps an error's code to an HTTP status, in one table. Knows nothing of any surface's error shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from p2pnet.errors import ModelNotFound, P2PNetError, RequestError

INTERNAL = "internal"
INTERNAL_MESSAGE = "The gateway failed unexpectedly."


@dataclass(frozen=True)
class Outcome:
    """How a kind of error is answered. `retry_after_s` is sent where waiting may help."""

    status: int
    retry_after_s: int | None = None


OUTCOMES: dict[str, Outcome] = {
    # The request is at fault: the same again fails again.
    "invalid_request": Outcome(400),
    "context_length_exceeded": Outcome(400),
    "feature_missing": Outcome(400),
    "model_not_found": Outcome(404),
    # There is capacity and it is taken: the client's own back-off is the right answer.
    "busy": Outcome(429, retry_after_s=1),
    "invalid_api_key": Outcome(401),
    "rate_limited": Outcome(429, retry_after_s=1),
    # Nobody can serve this now, and no token was sent: the client may repeat the request safely.
    "draining": Outcome(503, retry_after_s=1),
    "not_allowed": Outcome(503, retry_after_s=5),
    "no_worker": Outcome(503, retry_after_s=5),
    "peer_unreachable": Outcome(503, retry_after_s=1),
    "peer_lost": Outcome(503, retry_after_s=1),
    "too_slow": Outcome(503, retry_after_s=1),
    "end_doubted": Outcome(503, retry_after_s=1),
    "flagged": Outcome(503, retry_after_s=1),
    "join_failed": Outcome(503, retry_after_s=5),
    "daemon_failed": Outcome(503, retry_after_s=5),
    # It was let into the queue, and waited as long as it could: said as what it is, so that nobody takes it for a
    # refusal and comes back at once.
    "deadline_exceeded": Outcome(504, retry_after_s=5),
    # A machine behind this gateway answered, but wrongly. 500 is kept for faults of the gateway itself.
    "worker_failed": Outcome(502),
    "protocol_violation": Outcome(502),
    "record_refused": Outcome(502),
    "not_a_member": Outcome(502),
    "peer_error": Outcome(502),
    "wrong_receipt": Outcome(502),
    INTERNAL: Outcome(500),
    "usage": Outcome(500),
    # The HTTP edge's own.
    "foreign_host": Outcome(403),
    "foreign_origin": Outcome(403),
    "unsupported_media_type": Outcome(415),
    "unknown_url": Outcome(404),
    "response_not_found": Outcome(404),
    "receipt_not_found": Outcome(404),
    "no_entrance": Outcome(404),
    "method_not_allowed": Outcome(405),
    "request_timeout": Outcome(408),
    "request_too_large": Outcome(413),
}


@dataclass(frozen=True)
class Failure:
    """An error as a client is told of it. `param` names the offending field where there is one."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None


def failure(code: str, message: str, param: str | None = None) -> Failure:
    outcome = OUTCOMES.get(code, OUTCOMES[INTERNAL])
    return Failure(outcome.status, code, message, param, outcome.retry_after_s)


def describe(error: Exception) -> Failure:
    """What a client is told of an error. An error that was not raised on purpose tells nothing of our inside."""
    if not isinstance(error, P2PNetError):
        return failure(INTERNAL, INTERNAL_MESSAGE)
    param = error.param if isinstance(error, RequestError) else None
    if param is None and isinstance(error, ModelNotFound):
        param = "model"
    described = failure(error.code, error.message or error.code, param)
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        return replace(described, retry_after_s=max(1, math.ceil(retry_after_s)))
    return described
