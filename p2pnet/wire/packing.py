"""Joins, groups and cuts deltas so that each fits a frame. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from p2pnet.messages import TextDelta, TokenLogprob, ToolCallDelta

T = TypeVar("T")


def groups(items: Iterable[T], size_of: Callable[[T], int], max_size: int) -> Iterator[list[T]]:
    """Groups neighbours that together are no larger than `max_size`. An item that is larger by itself is alone."""
    group: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        total += size
        if group and total > max_size:
            yield group
            group, total = [], size
        group.append(item)
    if group:
        yield group


def cut(text: str, max_chars: int) -> Iterator[str]:
    """Cuts the text into parts of at most so many characters. An empty text has no parts."""
    return (text[begin : begin + max_chars] for begin in range(0, len(text), max_chars))


def joined(deltas: Sequence[TextDelta]) -> TextDelta:
    """Joins deltas of one choice and one kind, at least one of them, into one that says the same."""
    if len(deltas) == 1:
        return deltas[0]
    return TextDelta(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        choice=deltas[0].choice,
        logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
        tool_calls=joined_calls([call for delta in deltas for call in delta.tool_calls]),
        is_prompt=deltas[0].is_prompt,
        tokens=sum(delta.tokens for delta in deltas),
    )


def delta_bytes(delta: TextDelta) -> int:
    """How large a delta can be on the wire: 4 bytes for a character in UTF-8, 5 for a token id in msgpack."""
    size = 4 * len(delta.text) + 5 * len(delta.token_ids)
    if delta.logprobs:
        size += sum(map(logprob_bytes, delta.logprobs))
    if delta.tool_calls:
        size += sum(map(_call_bytes, delta.tool_calls))
    return size


def logprob_bytes(entry: TokenLogprob) -> int:
    """How large an entry can be: a list of four with an id, a float and the token's bytes, and a list of three for each
    of the likeliest."""
    return 24 + len(entry.token) + sum(20 + len(likely.token) for likely in entry.top)


def _call_bytes(piece: ToolCallDelta) -> int:
    """How large a piece can be: the names of its fields, the index, and the texts."""
    return 48 + 4 * (len(piece.id or "") + len(piece.name or "") + len(piece.arguments))


def joined_calls(pieces: Sequence[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """Joins neighbouring pieces of one call."""
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
