"""Defines what the layers of a gateway say to one another: callers, callables and events.

The bottom of the gateway: every layer may import it, and it imports none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from uuid import uuid4

from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta
from p2pnet.receipts.document import MAX_PARTS, Part, ReceiptDocument
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest


class Receipts:
    """Gathers the receipts of one HTTP request, whose client has asked for them: one for each worker's part."""

    def __init__(self, keep: Callable[[ReceiptDocument], None] = lambda document: None) -> None:
        self._id = "receipt-" + uuid4().hex
        self._keep = keep
        self._parts: list[Part] = []

    def note(self, part: Part) -> None:
        if len(self._parts) < MAX_PARTS:
            self._parts.append(part)

    def finish(self) -> ReceiptDocument | None:
        """All have come: they are kept from now on. None where no worker has given any."""
        if not self._parts:
            return None
        document = ReceiptDocument(self._id, tuple(self._parts))
        self._keep(document)
        return document


@dataclass(frozen=True)
class Volunteer:
    """The peer whose standing a caller has claimed with a key of that peer's, until `expires_ms` (Unix time).
    `priority` is what its standing adds to the caller's own: 0 is nothing."""

    peer: str
    expires_ms: int
    priority: int = 0


@dataclass(frozen=True)
class Caller:
    """On whose behalf a request comes: `name` is what limits, and what is kept for it, go by. The higher the priority
    the sooner the turn. `wait_s` is how long it is ready to wait for a worker, if it has said so: then it waits for a
    model that nobody has heard of, too. `receipts` is where receipts go, if it has asked for them. `may_be_audited`:
    another worker may be shown the request to check the answer, as far as the gateway does so. `volunteer` is whose
    standing it has claimed, if any."""

    name: str
    priority: int = 0
    wait_s: float | None = None
    receipts: Receipts | None = field(default=None, compare=False)
    may_be_audited: bool = True
    volunteer: Volunteer | None = None

    @property
    def line(self) -> str:
        """Who shares a queue's turns and places: all callers that have standing of the same volunteer are one, however
        many names of the same priority they come under. Standing that buys nothing is no line of its own."""
        if self.volunteer is None or not self.volunteer.priority:
            return self.name
        return f"{self.volunteer.peer} {self.priority}"

    @property
    def urgency(self) -> int:
        """The priority of its turns, standing included."""
        return self.priority + (0 if self.volunteer is None else self.volunteer.priority)


@dataclass(frozen=True)
class Waiting:
    """The request waits for a worker: at which position of its model's queue, from 1, and for how long about."""

    position: int
    estimate_s: float | None = None


@dataclass(frozen=True)
class Routed:
    """A worker has begun to answer: which, after how many attempts, this one included, and how long in the queue."""

    worker: str
    attempts: int
    queued_ms: int


GenerationEvent = Waiting | Routed | Accepted | TextDelta | Finished
EmbeddingEvent = Waiting | Routed | Accepted | Embedding | Finished
RankingEvent = Waiting | Routed | Accepted | Relevance | Finished
TokenizingEvent = Waiting | Routed | Accepted | Tokenized | Finished

Generate = Callable[[GenerateRequest, Caller], AsyncGenerator[GenerationEvent, None]]
"""Yields Waiting*, Routed, Accepted, TextDelta*, then Finished; raises a P2PNetError when it cannot. Closing it, or
cancelling the task that waits for it, cancels the work on the network."""

Embed = Callable[[EmbedRequest, Caller], AsyncGenerator[EmbeddingEvent, None]]
"""As Generate, with one Embedding for each input, in any order."""

Rerank = Callable[[RerankRequest, Caller], AsyncGenerator[RankingEvent, None]]
"""As Generate, with one Relevance for each document, in any order."""

Tokenize = Callable[[TokenizeRequest, Caller], AsyncGenerator[TokenizingEvent, None]]
"""As Generate, with Tokenized as often as it takes. Raises FeatureMissing where no worker tells tokens of the model."""


@dataclass(frozen=True)
class ModelEntry:
    """One model as this gateway sees it. `created_s` is the Unix time at which it first saw the model."""

    id: str
    created_s: int
    workers: int
    context_length: int | None = None
    digests: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("generate",)
    features: tuple[str, ...] = ()
    """What one worker or another can do with it, in the words of `p2pnet.features`."""
    quantizations: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    is_warm: bool = True
    """Whether any worker has its weights in memory."""
