"""Chooses the layers that a machine takes by what all stages of a model announce. Decides on data, asks nobody.

Rows pass every layer, so a model is as fast as the layer that fewest machines compute: that is where the next one goes.
The choice of a span is that of Petals (arXiv 2209.01188, 2312.08361), the aim that of SWARM parallelism (arXiv
2301.11913). When a stage moves is our own: Petals computes where all others would go then, which none of them has said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

UNMEASURED_STEP_MS = 100.0
"""Of a stage that has not said how long a pass takes there."""

CROWDED = 1.2
"""How much slower a stage counts that has no memory for another conversation: what it drops is computed again. Less
than `GAIN`, since memory comes and goes with each conversation, and nobody should move for one."""

GAIN = 1.3
"""How much faster the slowest of the layers concerned must become for a stage to leave its own. A move costs a load,
and each driver there what it has computed; claimed times differ by a tenth from one record to the next."""

MAX_CLAIM_MS = 10 * 60_000
"""For how long it is believed that a stage is loading. 60 GB from a hard disk take as long; then others take over."""

Span = tuple[int, int]
"""Layers [first, last)."""


@dataclass(frozen=True)
class Post:
    """What one stage announces: layers [first, last), how long a forward pass through them takes there (0 is not
    measured), and since when it has them, in Unix milliseconds. One that is not ready is just loading them."""

    peer_id: str
    first: int
    last: int
    step_ms: float = 0.0
    has_room: bool = True
    is_ready: bool = True
    since_ms: int = 0

    @property
    def span(self) -> Span:
        return self.first, self.last

    @property
    def passes_per_s(self) -> float:
        return 1000 / (self.step_ms or UNMEASURED_STEP_MS) / (1.0 if self.has_room else CROWDED)


def best_span(posts: Iterable[Post], layers: int, length: int) -> Span:
    """The span of so many of the model's layers that lacks machines most: one with the most layers that nobody has;
    among those, and where there is none, the one whose slowest layer is slowest, then its second slowest and so on.
    Of equal ones the first, so that what is left is in one piece."""
    length = min(length, layers)
    rates = rates_of(posts, layers)
    first = min(range(layers - length + 1), key=lambda first: (sorted(rates[first : first + length]), first))
    return first, first + length


def better_span(own: Post, others: Sequence[Post], layers: int) -> Span | None:
    """Where a stage should rather be, None where it should stay.

    While there is no whole chain it moves if fewer layers are missing then. Else it moves if the slowest of the layers
    that it leaves or comes to gets faster by `GAIN`, and never where the chain would break while it loads. Each move
    makes the slowest layers faster, so stages that move one after the other come to rest.
    """
    span = best_span(others, layers, own.last - own.first)
    if span == own.span:
        return None
    before = rates_of([*others, own], layers)
    after = rates_of([*others, _at(own, span)], layers)
    if 0.0 in before:
        return span if after.count(0.0) < before.count(0.0) else None
    if 0.0 in rates_of((post for post in others if post.is_ready), layers):
        return None
    concerned = {*range(*own.span), *range(*span)}
    gain = min(after[layer] for layer in concerned) / min(before[layer] for layer in concerned)
    return span if gain >= GAIN else None


def seen_by(claim: Post, posts: Iterable[Post], before: Iterable[Post] = ()) -> list[Post]:
    """What a stage that is about to load counts on: others that are ready, and those that said so before it. One that
    said so after it is still where it was `before`, for it sees this claim and stays: so of two that want the same
    layers at the same time, the later one looks again, and only that one."""
    rank = (claim.since_ms, claim.peer_id)
    former = {post.peer_id: post for post in before if post.is_ready}
    known = (
        post if post.is_ready or (post.since_ms, post.peer_id) < rank else former.get(post.peer_id) for post in posts
    )
    return [post for post in known if post is not None and post.peer_id != claim.peer_id]


def believed(posts: Iterable[Post], now_ms: int) -> list[Post]:
    """Without those that have been loading for too long to be believed."""
    return [post for post in posts if post.is_ready or now_ms - post.since_ms <= MAX_CLAIM_MS]


def rates_of(posts: Iterable[Post], layers: int) -> list[float]:
    """Passes a second through each layer, of all stages together. In one order, so that sums of the same are equal."""
    rates = [0.0] * layers
    for post in sorted(posts, key=lambda post: post.peer_id):
        rate = post.passes_per_s
        for layer in range(post.first, min(post.last, layers)):
            rates[layer] += rate
    return rates


def _at(post: Post, span: Span) -> Post:
    return Post(post.peer_id, *span, post.step_ms, post.has_room)
