"""Opens a stream to one worker and drives one exchange over it. Never retries: that is the caller's to decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

import msgspec

from p2pnet.config import ExchangeTimeouts
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import InvalidRequest, PeerLost, PeerSilent, ProtocolViolation, from_wire
from p2pnet.messages import MAX_TOKENS_LIMIT, Accepted, Failed, Finished, GenerateRequest, TextDelta
from p2pnet.network.interface import Network, Stream
from p2pnet.network.kept_streams import KeptStreams
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.score_messages import Scored, ScoreRequest
from p2pnet.status_messages import Announced, Status, StatusRequest, WatchRequest
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.wire.answer_limits import AnswerLimits
from p2pnet.wire.codec import LENGTH_BYTES, FrameDecoder, encode_frame
from p2pnet.wire.exchange import Exchange, State
from p2pnet.wire.margins import MarginCheck
from p2pnet.wire.protocols import EMBED, GENERATE, RERANK, SCORE, STATUS, TOKENIZE, WATCH, AnyAnswer, WireProtocol
from p2pnet.wire.relevances import RelevanceCheck
from p2pnet.wire.tokens import TokensCheck
from p2pnet.wire.vectors import VectorCheck

T = TypeVar("T")
Q = TypeVar(
    "Q", GenerateRequest, EmbedRequest, ScoreRequest, TokenizeRequest, RerankRequest, StatusRequest, WatchRequest
)
E = TypeVar("E", bound=AnyAnswer)

TIMEOUTS = ExchangeTimeouts()

LAST_WORD_S = 0.05
"""How long the last word to a worker may take: it goes into a buffer, and one that reads nothing is not waited for."""


class Witness(Protocol):
    """Follows one generation for whoever checks and signs what comes of it. Must not raise."""

    def note_request(self, body: bytes) -> None:
        """The request is sent, as the body of this frame."""

    def note(self, event: Accepted | TextDelta | Finished) -> None:
        """The next event has come, and has been checked."""

    def note_failed(self, failed: Failed) -> None:
        """The worker has broken off."""

    def last_word(self) -> bytes | None:
        """The answer is complete. A frame for the worker, if there is anything to say to it."""


def generate(
    network: Network,
    peer_id: str,
    request: GenerateRequest,
    addresses: Sequence[str] = (),
    timeouts: ExchangeTimeouts = TIMEOUTS,
    max_tokens: int | None = None,
    witness: Witness | None = None,
    note_scored: Callable[[Scored], None] | None = None,
    kept: KeptStreams | None = None,
) -> AsyncGenerator[Accepted | TextDelta | Finished, None]:
    """Have one worker serve `request`: Accepted, TextDelta*, Finished.

    Raises the error a Failed frame stands for (RequestError: nobody else will do better), PeerUnreachable, PeerLost
    or ProtocolViolation (another worker may be tried), InvalidRequest when the request fits no frame. Closing the
    generator cancels the work on the other side.

    A worker that sends more than `max_tokens` for a choice (by default what the request asks for), or what was not
    asked for, has broken the protocol. `witness` is told what is sent and what comes, each event before it is yielded.
    With `score_resume` in the request, `note_scored` is given the margins of its `resume_tokens`, in order, before the
    first delta; an answer that was complete with these tokens has none. With `kept` streams it goes over one of those,
    where there is one, and is kept there afterwards.
    """
    limits = AnswerLimits(request, max_tokens or request.max_tokens or MAX_TOKENS_LIMIT)

    def check(event: Accepted | TextDelta | Finished) -> None:
        limits.check(event)
        if witness is not None:
            witness.note(event)

    def take_scored(scored: Scored) -> None:
        limits.check_scored(scored)
        if note_scored is not None:
            note_scored(scored)

    call = _Call(GENERATE, request, check, timeouts.accept_s, timeouts.silence_s, witness, take_scored)
    return _drive(network, peer_id, addresses, call, kept)


def embed(
    network: Network,
    peer_id: str,
    request: EmbedRequest,
    addresses: Sequence[str] = (),
    timeouts: ExchangeTimeouts = TIMEOUTS,
    kept: KeptStreams | None = None,
) -> AsyncGenerator[Accepted | Embedding | Finished, None]:
    """Have one worker embed the inputs of `request`: Accepted, Embedding once for each input in any order, Finished.

    All vectors have one length, that asked for where one was, and are finite. Raises, is closed, and keeps its stream,
    as `generate`.
    """
    call = _Call(EMBED, request, VectorCheck(request).check, timeouts.accept_s, timeouts.silence_s)
    return _drive(network, peer_id, addresses, call, kept)


def tokenize(
    network: Network,
    peer_id: str,
    request: TokenizeRequest,
    addresses: Sequence[str] = (),
    timeouts: ExchangeTimeouts = TIMEOUTS,
    kept: KeptStreams | None = None,
) -> AsyncGenerator[Accepted | Tokenized | Finished, None]:
    """Have one worker tell the tokens of a prompt, or the text of tokens: Accepted, Tokenized*, Finished.

    Accepted has the count. As many ids as it says follow where they are wanted, and never more text than ids can be.
    Raises, is closed, and keeps its stream, as `generate`.
    """
    call = _Call(TOKENIZE, request, TokensCheck(request).check, timeouts.accept_s, timeouts.silence_s)
    return _drive(network, peer_id, addresses, call, kept)


def rerank(
    network: Network,
    peer_id: str,
    request: RerankRequest,
    addresses: Sequence[str] = (),
    timeouts: ExchangeTimeouts = TIMEOUTS,
    kept: KeptStreams | None = None,
) -> AsyncGenerator[Accepted | Relevance | Finished, None]:
    """Have one worker rank documents: Accepted, Relevance once for each in any order, Finished.

    All scores are finite. Raises, is closed, and keeps its stream, as `generate`.
    """
    call = _Call(RERANK, request, RelevanceCheck(request).check, timeouts.accept_s, timeouts.silence_s)
    return _drive(network, peer_id, addresses, call, kept)


def score(
    network: Network,
    peer_id: str,
    request: ScoreRequest,
    addresses: Sequence[str] = (),
    timeouts: ExchangeTimeouts = TIMEOUTS,
) -> AsyncGenerator[Accepted | Scored | Finished, None]:
    """Have one worker score another one's answer: Accepted, Scored until each token has its margin, Finished.

    The last Scored has the margins of the end and of the text, where the request names a `reason` and a `text_hash`.
    Raises, and is closed, as `generate`.
    """
    call = _Call(
        SCORE,
        request,
        MarginCheck(len(request.token_ids), request.reason is not None, request.text_hash is not None).check,
        timeouts.accept_s,
        timeouts.silence_s,
    )
    return _drive(network, peer_id, addresses, call)


async def status(network: Network, peer_id: str, addresses: Sequence[str], timeout_s: float) -> Status:
    """Asks one worker how it is at this moment. The whole of it, dialling included, takes at most `timeout_s` seconds.

    Raises PeerUnreachable, PeerLost or ProtocolViolation, or the error that a Failed frame stands for: NotAllowed, or
    Busy when this peer has asked too often. Who answers so is alive.
    """
    call = _Call(STATUS, StatusRequest(), lambda _: None)
    try:
        async with asyncio.timeout(timeout_s):
            (answer,) = [event async for event in _drive(network, peer_id, addresses, call)]
    except TimeoutError as error:
        raise PeerLost(f"the worker did not say how it is within {timeout_s:g} s") from error
    return answer


def watch(
    network: Network, peer_id: str, addresses: Sequence[str], open_s: float, silence_s: float
) -> AsyncGenerator[Status | Announced, None]:
    """Have one worker tell how it is, for as long as it is listened to: a Status, then any of the two.

    It has `open_s` seconds for the first, from the open stream on, and `silence_s` between two. Raises PeerSilent when
    it takes longer, PeerLost when the stream has ended, PeerUnreachable or ProtocolViolation, or the error that a
    Failed frame stands for: NotAllowed, or Busy when it has no room for one more. Who answers so is alive.
    """
    return _drive(network, peer_id, addresses, _Call(WATCH, WatchRequest(), lambda _: None, open_s, silence_s))


@dataclass(frozen=True)
class _Call(Generic[Q, E]):
    """One exchange: what is asked, how each event is checked, and how long a worker may be silent before the first
    event and between two. None is no limit."""

    protocol: WireProtocol[Q, E]
    request: Q
    check: Callable[[E], None]
    accept_s: float | None = None
    silence_s: float | None = None
    witness: Witness | None = None
    take_scored: Callable[[Scored], None] | None = None
    """Takes and checks scores that come beside the events; None where they are the events."""


async def _drive(
    network: Network, peer_id: str, addresses: Sequence[str], call: _Call[Q, E], kept: KeptStreams | None = None
) -> AsyncGenerator[E, None]:
    """Yields what the worker sends, checked against the exchange's table, up to its last event.

    What arrived together is checked together: nobody is told of a Finished if the worker sends more behind it.
    """
    frame = _request_frame(call, keep_stream=kept is not None)
    if call.witness is not None:
        call.witness.note_request(frame[LENGTH_BYTES:])
    decoder, exchange = call.protocol.event_decoder(), Exchange(call.protocol.transitions)
    name, way = call.protocol.name, None if kept is None else network.is_direct_to(peer_id)
    stream: Stream | None = None
    if kept is not None and not network.wants_new_stream(peer_id, addresses):
        stream = kept.take(peer_id, name, way)
    may_have_ended = stream is not None
    if stream is None:
        stream = await network.open_stream(peer_id, name, addresses)
    is_kept = False
    try:
        events: Sequence[E | Failed | Scored] = ()
        try:
            events = await _first_events(stream, frame, call, decoder, exchange)
        except PeerLost as error:
            # The worker may have closed a kept stream just as this was written: then it has not read it.
            if not may_have_ended or isinstance(error, PeerSilent) or not decoder.is_empty:
                raise
            stream.close()
            stream = await network.open_stream(peer_id, name, addresses)
            events = await _first_events(stream, frame, call, decoder, exchange)
        while True:
            for event in events:
                match event:
                    case Failed(code, message, param):
                        if call.witness is not None:
                            call.witness.note_failed(event)
                        raise from_wire(code, message, param)
                    case Scored() if call.take_scored is not None:
                        call.take_scored(event)
                    case _:
                        answer = cast(E, event)  # the exchange's table lets nothing else pass
                        call.check(answer)
                        is_kept = isinstance(answer, Finished) and answer.keep_stream
                        yield answer
            if exchange.is_done:
                return
            limit_s = call.accept_s if exchange.state is State.WAITING else call.silence_s
            events = await _within(limit_s, _next_events(stream, decoder, exchange))
    finally:
        word = call.witness.last_word() if exchange.is_done and call.witness is not None else None
        if is_kept and kept is not None:
            kept.keep(name, stream, way, word or b"")
        else:
            await _part(stream, word)


async def _first_events(
    stream: Stream, frame: bytes, call: _Call[Q, E], decoder: FrameDecoder[E | Failed | Scored], exchange: Exchange
) -> Sequence[E | Failed | Scored]:
    """Ask, and wait for the first answer."""
    await _within(call.accept_s, stream.write(frame))
    return await _within(call.accept_s, _next_events(stream, decoder, exchange))


async def _part(stream: Stream, last_word: bytes | None) -> None:
    """Whoever wanted the answer has it: nothing that goes wrong here matters, and who does not wait for us any more
    finds the stream closed all the same."""
    try:
        if last_word is not None:
            with suppress(PeerLost):
                await _within(LAST_WORD_S, stream.write(last_word))
    finally:
        stream.close()


async def _next_events(
    stream: Stream, decoder: FrameDecoder[E | Failed | Scored], exchange: Exchange
) -> Sequence[E | Failed | Scored]:
    """The next events, at least one, in however small pieces they come."""
    events: Sequence[E | Failed | Scored] = ()
    while not events:
        data = await stream.read()
        if not data:
            exchange.end_of_stream()
        events = decoder.feed(data)
    for event in events:
        exchange.advance(event)
    if exchange.is_done and not decoder.is_empty:
        raise ProtocolViolation("bytes after the last event")
    return events


def _request_frame(call: _Call[Q, E], keep_stream: bool) -> bytes:
    """The request as a frame. If it cannot be sent, that is the client's fault, and no worker must be blamed for it."""
    request = msgspec.structs.replace(call.request, keep_stream=True) if keep_stream else call.request
    try:
        return encode_frame(request, call.protocol.max_request_frame_bytes)
    except ProtocolViolation as error:
        raise InvalidRequest(
            f"The request cannot be sent to a worker: {error}. Shorten it, or make its images smaller or fewer."
        ) from error
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The request cannot be sent to a worker: {error}.") from error


async def _within(limit_s: float | None, work: Awaitable[T]) -> T:
    if limit_s is None:
        return await work
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError as error:
        raise PeerSilent(f"the worker stayed silent for {limit_s:.0f} s") from error
