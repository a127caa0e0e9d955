"""Follows one exchange through a table of its states, without I/O.

    state      Accepted    Scored      TextDelta   Finished   Failed    end of stream
    WAITING    STREAMING   -           -           -          DONE      lost
    STREAMING  -           STREAMING   STREAMING   DONE       DONE      lost
    DONE       -           -           -           -          -         fine

A dash is a violation of the protocol. Both sides walk the same table: the worker through what it sends, the client
through what it receives. A stream that ends anywhere but in DONE is lost, never a success. In an embed exchange
Embedding stands in the place of TextDelta, in a tokenize exchange Tokenized, in a
rerank exchange Relevance, in a score exchange there is none. Scored
is of what the request already has, so it comes before the first TextDelta. A watch begins with a Status, goes on for
ever, and ends in Failed at best.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from p2pnet.embed_messages import Embedding, EmbedEvent
from p2pnet.errors import PeerLost, ProtocolViolation
from p2pnet.messages import Accepted, Event, Failed, Finished, TextDelta
from p2pnet.rerank_messages import Relevance, RerankEvent
from p2pnet.score_messages import Scored, ScoreEvent
from p2pnet.status_messages import Announced, Status, StatusEvent, WatchEvent
from p2pnet.tokenize_messages import Tokenized, TokenizeEvent

GENERATE_PROTOCOL = "/p2pnet/generate/1"
EMBED_PROTOCOL = "/p2pnet/embed/1"
SCORE_PROTOCOL = "/p2pnet/score/1"
TOKENIZE_PROTOCOL = "/p2pnet/tokenize/1"
RERANK_PROTOCOL = "/p2pnet/rerank/1"
STATUS_PROTOCOL = "/p2pnet/status/1"
WATCH_PROTOCOL = "/p2pnet/watch/1"

PROTOCOLS: Mapping[str, str] = {
    "generate": GENERATE_PROTOCOL,
    "embed": EMBED_PROTOCOL,
    "tokenize": TOKENIZE_PROTOCOL,
    "rerank": RERANK_PROTOCOL,
}
"""Which protocol serves a model, by what is asked of it."""


class State(Enum):
    WAITING = auto()
    STREAMING = auto()
    DONE = auto()


AnyEvent = Event | EmbedEvent | ScoreEvent | TokenizeEvent | RerankEvent | StatusEvent | WatchEvent
Transitions = Mapping[tuple[State, type[AnyEvent]], State]

_EITHER: Transitions = {
    (State.WAITING, Accepted): State.STREAMING,
    (State.WAITING, Failed): State.DONE,
    (State.STREAMING, Finished): State.DONE,
    (State.STREAMING, Failed): State.DONE,
}
SCORE_TRANSITIONS: Transitions = {**_EITHER, (State.STREAMING, Scored): State.STREAMING}
TRANSITIONS: Transitions = {**SCORE_TRANSITIONS, (State.STREAMING, TextDelta): State.STREAMING}
EMBED_TRANSITIONS: Transitions = {**_EITHER, (State.STREAMING, Embedding): State.STREAMING}
TOKENIZE_TRANSITIONS: Transitions = {**_EITHER, (State.STREAMING, Tokenized): State.STREAMING}
RERANK_TRANSITIONS: Transitions = {**_EITHER, (State.STREAMING, Relevance): State.STREAMING}
STATUS_TRANSITIONS: Transitions = {(State.WAITING, Status): State.DONE, (State.WAITING, Failed): State.DONE}
WATCH_TRANSITIONS: Transitions = {
    (State.WAITING, Status): State.STREAMING,
    (State.WAITING, Failed): State.DONE,
    (State.STREAMING, Status): State.STREAMING,
    (State.STREAMING, Announced): State.STREAMING,
    (State.STREAMING, Failed): State.DONE,
}


class Exchange:
    """Knows the state of one exchange."""

    def __init__(self, transitions: Transitions = TRANSITIONS) -> None:
        self._transitions = transitions
        self.state = State.WAITING

    @property
    def is_done(self) -> bool:
        return self.state is State.DONE

    def advance(self, event: AnyEvent) -> None:
        """Take the next event. Raises ProtocolViolation when the table forbids it."""
        following = self._transitions.get((self.state, type(event)))
        if following is None:
            raise ProtocolViolation(f"{type(event).__name__} in state {self.state.name}")
        self.state = following

    def end_of_stream(self) -> None:
        """The other side has gone. Raises PeerLost unless the exchange was complete."""
        if not self.is_done:
            raise PeerLost("the worker went away in mid-answer" if self.state is State.STREAMING else "no answer came")
