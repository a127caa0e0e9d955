"""Defines all errors: which travel on the wire, and after which another peer may be tried.

    P2PNetError
    |- UsageError             the person at the keyboard: one sentence and a fix, exit status 1
    |- JoinError              no way into the network (nobody reachable, clock off)
    |- RequestError           the client's request is at fault: another worker would say the same
    |  |- InvalidRequest
    |  |- ContextOverflow
    |  |- FeatureMissing      this worker cannot do it; others may
    |  `- ModelNotFound
    |- PeerError              this peer failed: another one may be tried
    |  |- PeerUnreachable
    |  |- PeerLost            the stream ended before Finished or Failed
    |  |  `- PeerSilent       or nothing came for too long
    |  |- TooSlow             others answer many times as fast, and one of them has room
    |  |- EndDoubted          it ended an answer in a way that another one is asked about
    |  |- Flagged             its answers do not come from what it claims to run
    |  |- ProtocolViolation   the peer sent what the protocol forbids
    |  |- Busy
    |  |- Draining
    |  |- NotAllowed          this peer takes nothing from us
    |  `- WorkerFailed
    |- NoWorker               nobody is left to try
    |- DeadlineExceeded       a request has waited for a worker as long as it could
    |- RecordRefused          a record that must not be stored, nor believed
    |- ReceiptRefused         a receipt or acknowledgement that is forged, or not of what has come
    |- ClaimRefused           a volunteer's key that is forged, expired, replaced, or for another gateway
    |- NotAMember             a peer that is no member of our private swarm, not yet or not any more
    `- DaemonFailed           our own p2pd

Knows nothing of HTTP: the gateway keeps its own table from code to status.
"""

from __future__ import annotations

from typing import ClassVar

from p2pnet.display.printable import quoted


class P2PNetError(Exception):
    """Base of every error this project raises on purpose.

    `code` is the stable name that travels in a Failed frame; `may_retry` says whether the same request may be sent
    to another peer.
    """

    code: ClassVar[str] = "internal"
    may_retry: ClassVar[bool] = False
    is_hearsay: bool = False
    """Whether a stranger said so, who may lie: nobody here has found it out."""

    @property
    def message(self) -> str:
        return str(self)


class UsageError(P2PNetError):
    """The command cannot do what the user asked for. The message is one sentence; `fix` says what to do."""

    code = "usage"

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class JoinError(UsageError):
    """The network could not be joined."""

    code = "join_failed"


class DaemonFailed(UsageError):
    """p2pd did not start, or could not be spoken to."""

    code = "daemon_failed"


class RequestError(P2PNetError):
    """The request itself is at fault. `param` names the offending field where there is one."""

    code = "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    """A field has a value that cannot be honoured."""


class ContextOverflow(RequestError):
    """Prompt and requested tokens exceed the model's context length."""

    code = "context_length_exceeded"

    @classmethod
    def by_prompt(cls, context_length: int, prompt_tokens: int) -> ContextOverflow:
        """A prompt that is longer than the context by itself, worded as OpenAI words it: `prompt_tokens` at least."""
        return cls(
            f"This model's maximum context length is {context_length} tokens, but the prompt alone has at least "
            f"{prompt_tokens}.",
            "prompt",
        )


class FeatureMissing(RequestError):
    """The model, or what runs it here, cannot do what was asked: others may. Nothing is dropped in silence."""

    code = "feature_missing"
    may_retry = True


class ModelNotFound(RequestError):
    """No peer announces this model, or this one does not run it (any more): others may."""

    code = "model_not_found"
    may_retry = True


class PeerError(P2PNetError):
    """One peer could not serve the request."""

    code = "peer_error"
    may_retry = True


class PeerUnreachable(PeerError):
    """No connection, or no stream of this protocol, could be opened to the peer."""

    code = "peer_unreachable"


class PeerLost(PeerError):
    """The stream ended or stayed silent without Finished or Failed. Never a success."""

    code = "peer_lost"


class PeerSilent(PeerLost):
    """The stream stayed silent. Whether the peer is gone, or only does not get on with this request, is not said."""


class TooSlow(PeerError):
    """The peer takes many times as long as others usually do, so the request goes on at one of them."""

    code = "too_slow"


class EndDoubted(PeerError):
    """The peer ended an answer after next to nothing, and another one is asked about that. It is no failure yet."""

    code = "end_doubted"


class Flagged(PeerError):
    """This peer's own audits have shown that the peer's answers do not come from what it claims to run: it is asked
    nothing more."""

    code = "flagged"


class ProtocolViolation(PeerError):
    """The peer sent a frame that is too large, not decodable, or not allowed in this state."""

    code = "protocol_violation"


class Busy(PeerError):
    """All of the worker's slots are taken. `retry_after_s` is when asking again may help, if the gateway that says so
    knows; it never travels on the wire."""

    code = "busy"

    def __init__(self, message: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(PeerError):
    """The worker is stopping, or its owner has paused it: it takes no new requests."""

    code = "draining"


class NotAllowed(PeerError):
    """The worker's owner lets it serve other gateways only. It will say so again."""

    code = "not_allowed"


class WorkerFailed(PeerError):
    """The worker's backend failed while it computed."""

    code = "worker_failed"


class NoWorker(P2PNetError):
    """Workers announce the model, but none of them could be used."""

    code = "no_worker"


class DeadlineExceeded(P2PNetError):
    """The request was let into a gateway's queue, but no worker took it, or went on with it, for as long as it could
    wait. `retry_after_s` is as in Busy."""

    code = "deadline_exceeded"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RecordRefused(P2PNetError):
    """A record that is malformed, unsigned, foreign, stale, from the future or too large."""

    code = "record_refused"


class ReceiptRefused(P2PNetError):
    """A receipt, or a gateway's acknowledgement of one, that is malformed, not signed, or not of what was sent."""

    code = "wrong_receipt"


class ClaimRefused(P2PNetError):
    """A key that claims a volunteer's standing and does not hold. The message says what to do."""

    code = "invalid_api_key"


class NotAMember(P2PNetError):
    """A certificate of membership that does not hold: forged, expired, revoked, of another peer or another swarm."""

    code = "not_a_member"


WIRE_ERRORS: dict[str, type[P2PNetError]] = {
    error.code: error
    for error in (
        InvalidRequest,
        ContextOverflow,
        FeatureMissing,
        ModelNotFound,
        ProtocolViolation,
        Busy,
        Draining,
        NotAllowed,
        WorkerFailed,
    )
}
"""What a worker may answer in a Failed frame, by code. Codes are only ever added."""


def from_wire(code: str, message: str, param: str | None = None) -> P2PNetError:
    """The error that a Failed frame stands for. A code we do not know is the peer's failure: another may be tried.

    The message is a stranger's, and goes to clients and into logs and terminals: it is quoted as a stranger's.
    """
    words = quoted(message)
    error = WIRE_ERRORS.get(code, WorkerFailed)(f"A worker said: {words}" if words else "")
    error.is_hearsay = True
    if isinstance(error, RequestError):
        error.param = param
    return error
