"""Merges deltas that wait for a busy stream into as few frames as say the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from p2pnet.messages import TextDelta
from p2pnet.wire.packing import delta_bytes, groups, joined
from p2pnet.worker.backend import BackendEvent

MAX_MERGED_BYTES = 32 << 10
"""What deltas may add up to in one frame, at most: half of the frame, and more than waits unless a client is slow."""


def merged(events: Iterable[BackendEvent]) -> list[BackendEvent]:
    """The same events, with the deltas between two others joined as far as a frame may hold them.

    The deltas of one choice stay in their order; choices of one request are independent of one another. A delta of text
    and one of a tool call stay apart, and so do the prompt's echo and the answer. So do deltas with ids and those
    without: a delta's ids say exactly what it carries, and whoever goes on after them relies on that.
    """
    result: list[BackendEvent] = []
    waiting: list[TextDelta] = []
    for event in events:
        if isinstance(event, TextDelta):
            waiting.append(event)
        else:
            result.extend(_merged_deltas(waiting))
            result.append(event)
            waiting = []
    result.extend(_merged_deltas(waiting))
    return result


def _merged_deltas(deltas: Sequence[TextDelta]) -> Iterator[TextDelta]:
    by_choice: dict[int, list[TextDelta]] = {}
    for delta in deltas:
        by_choice.setdefault(delta.choice, []).append(delta)
    for choice in by_choice.values():
        for _, neighbours in groupby(choice, _kind):
            yield from map(joined, groups(neighbours, delta_bytes, MAX_MERGED_BYTES))


def _kind(delta: TextDelta) -> tuple[bool, bool, bool]:
    return delta.is_prompt, bool(delta.tool_calls), bool(delta.token_ids)
