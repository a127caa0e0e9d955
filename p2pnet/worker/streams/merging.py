"""Deltas that wait, in as few as say the same: what goes into one frame. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from p2pnet.messages import TextDelta, TokenLogprob, ToolCallDelta
from p2pnet.worker.backend import BackendEvent

MAX_MERGED_BYTES = 32 << 10
"""What deltas may add up to in one frame, at most: half of the frame, and more than waits unless a client is slow."""


def merged(events: Iterable[BackendEvent]) -> list[BackendEvent]:
    """The same events with the deltas between two others put together, as far as a frame may hold them.

    What is said of one choice stays in its order; choices of one request are independent of one another. A delta of
    text and one of a tool call stay apart, and so do the prompt's echo and the answer. So do deltas with ids and those
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
        yield from map(_joined, _runs(choice))


def _runs(deltas: Sequence[TextDelta]) -> Iterator[list[TextDelta]]:
    """Neighbours of one kind that fit a frame together."""
    run: list[TextDelta] = []
    size = 0
    for delta in deltas:
        size += _largest_size(delta)
        if run and (_kind(run[0]) != _kind(delta) or size > MAX_MERGED_BYTES):
            yield run
            run, size = [], _largest_size(delta)
        run.append(delta)
    if run:
        yield run


def _kind(delta: TextDelta) -> tuple[bool, bool, bool]:
    return delta.is_prompt, bool(delta.tool_calls), bool(delta.token_ids)


def _joined(run: list[TextDelta]) -> TextDelta:
    if len(run) == 1:
        return run[0]
    return TextDelta(
        text="".join(delta.text for delta in run),
        token_ids=tuple(token for delta in run for token in delta.token_ids),
        choice=run[0].choice,
        logprobs=tuple(logprob for delta in run for logprob in delta.logprobs),
        tool_calls=_joined_calls([call for delta in run for call in delta.tool_calls]),
        is_prompt=run[0].is_prompt,
    )


def _joined_calls(pieces: Sequence[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """Neighbouring pieces of one call in one."""
    calls: list[list[ToolCallDelta]] = []
    for piece in pieces:
        if calls and calls[-1][0].index == piece.index and piece.id is None and piece.name is None:
            calls[-1].append(piece)
        else:
            calls.append([piece])
    return tuple(
        ToolCallDelta(call[0].index, call[0].id, call[0].name, "".join(piece.arguments for piece in call))
        for call in calls
    )


def _largest_size(delta: TextDelta) -> int:
    """Bytes on the wire at most: 4 for a character in UTF-8, 5 for a token id in msgpack."""
    size = 4 * len(delta.text) + 5 * len(delta.token_ids)
    if delta.logprobs:
        size += sum(map(_logprob_size, delta.logprobs))
    if delta.tool_calls:
        size += sum(map(_call_size, delta.tool_calls))
    return size


def _logprob_size(entry: TokenLogprob) -> int:
    """A list of four with an id, a float and the token's bytes, and a list of three for each of the likeliest."""
    return 24 + len(entry.token) + sum(20 + len(likely.token) for likely in entry.top)


def _call_size(piece: ToolCallDelta) -> int:
    """The names of its fields, the index, and the texts."""
    return 48 + 4 * (len(piece.id or "") + len(piece.name or "") + len(piece.arguments))
