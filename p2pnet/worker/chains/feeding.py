"""Feeds the stages that stand by: what the chain has computed goes to them, too, a little behind and never in its way.

When one of them takes a lost stage's place, it lacks a few tokens, however long the text is. Runs in the thread that
computes, and waits for nothing there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from p2pnet.stage_messages import MAX_STAGE_NOTES, Piece
from p2pnet.worker.chains.chain import Chain
from p2pnet.worker.chains.member import Member, SequenceGone
from p2pnet.worker.chains.store import Remote

FEED_TOKENS = 64
"""Of one row: a stage that stands by for one driver may be at work for another, and is not held up by so few."""

FEED_LAG = 16
"""Tokens that a stage must lack of a sequence before it is fed: a row for each token would cost as much as the chain's.
To catch up with so few takes one short row."""

FEED_PAUSE_S = 5.0
"""After a stage had no room, or what it lacks was not to be had."""

Send = Callable[[Chain, Sequence[Member], Sequence[Piece], Sequence[int], Sequence[int]], Future[None]]
"""Has a stage fed: the members are the one before it, if there is one, and itself; then pieces, their ids, and what it
may forget."""


@dataclass(frozen=True)
class Lag:
    """Of one sequence a stage that stands by has `has` tokens, and might have `could`."""

    number: int
    has: int
    could: int


def next_feed(lags: Sequence[Lag]) -> tuple[Piece, ...]:
    """What a stage is fed next: first what lacks least, so that no long prompt holds up running answers."""
    pieces: list[Piece] = []
    left = FEED_TOKENS
    for lag in sorted(lags, key=lambda lag: lag.could - lag.has):
        count = min(left, lag.could - lag.has)
        if lag.could - lag.has >= FEED_LAG and count:
            pieces.append(Piece(lag.number, lag.has, count))
            left -= count
    return tuple(pieces)


@dataclass(frozen=True, eq=False)
class _Feed:
    """What is on its way to one stage."""

    remotes: Sequence[Remote]
    done: Future[None]


class Feeder:
    """Feeds whoever stands by for one chain after another."""

    def __init__(self, send: Send, now_s: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._now_s = now_s
        self._feeds: dict[Member, _Feed] = {}
        self._fed: dict[Member, dict[int, Remote]] = {}
        """What each has, or may have."""
        self._until_s: dict[Member, float] = {}

    def feed(self, chain: Chain, remotes: Sequence[Remote]) -> None:
        """A step of these sequences is over. What comes of feeding is looked at after a later one."""
        self._look()
        for spare, before in _places(chain):
            if spare in self._feeds or self._until_s.get(spare, 0.0) > self._now_s():
                continue
            by_number = {remote.number: remote for remote in remotes}
            pieces = next_feed([_lag(remote, spare, before) for remote in by_number.values()])
            if pieces:
                self._begin(chain, spare, before, pieces, by_number)
        self._fed = {member: fed for member, fed in self._fed.items() if member in chain.spares}

    def _begin(
        self,
        chain: Chain,
        spare: Member,
        before: Member | None,
        pieces: Sequence[Piece],
        remotes: dict[int, Remote],
    ) -> None:
        fed = self._fed.setdefault(spare, {})
        forget = [number for number, remote in fed.items() if remote.is_closed][:MAX_STAGE_NOTES]
        for number in forget:
            del fed[number]
        ids = [token_id for piece in pieces for token_id in _ids(remotes[piece.sequence], piece)]
        for piece in pieces:
            fed[piece.sequence] = remotes[piece.sequence]
            remotes[piece.sequence].feed(spare, piece.start + piece.count)
        done = self._send(chain, (spare,) if before is None else (before, spare), pieces, ids, forget)
        self._feeds[spare] = _Feed([remotes[piece.sequence] for piece in pieces], done)

    def _look(self) -> None:
        """What has come of those that are over. Where one fails, no stage of the chain is the worse for it."""
        for spare, feed in [(spare, feed) for spare, feed in self._feeds.items() if feed.done.done()]:
            del self._feeds[spare]
            error = feed.done.exception()
            for remote in feed.remotes:
                remote.settle(spare, error is None)
                if isinstance(error, SequenceGone) and error.member is spare:
                    remote.fed.pop(spare, None)
            if error is not None:
                self._until_s[spare] = self._now_s() + FEED_PAUSE_S
        self._until_s = {member: until_s for member, until_s in self._until_s.items() if until_s > self._now_s()}


def _places(chain: Chain) -> Iterator[tuple[Member, Member | None]]:
    """Whoever stands by, each with the stage that comes before it: None for those with the first layers."""
    members = chain.members
    for spare in chain.spares:
        for before, member in zip((None, *members), members, strict=False):
            if (member.leg.first, member.leg.last) == (spare.leg.first, spare.leg.last):
                yield spare, before


def _lag(remote: Remote, spare: Member, before: Member | None) -> Lag:
    """Never more than the stage before has; and as the ids are noted after that, never more than there are."""
    could = len(remote.ids) if before is None else min(len(remote.ids), remote.filled_at(before))
    return Lag(remote.number, remote.fed.get(spare, 0), could)


def _ids(remote: Remote, piece: Piece) -> Sequence[int]:
    return remote.ids[piece.start : piece.start + piece.count]
