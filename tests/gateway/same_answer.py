"""Whether two answers are the same to a client, however their text was cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from gateway.surfaces.openai.render import CHAT, COMPLETION, ResponseHead, SseRenderer
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta, TokenLogprob, ToolCallDelta
from p2pnet.worker.backend import BackendEvent
from tests.worker.answers import Choice, joined

LOGPROB_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.5}
"""What is computed together with a token changes the last digits of its logits, and in bfloat16 one near 50 has a last
digit of a quarter."""


def has_same_tokens(request: GenerateRequest, expected: Sequence[BackendEvent], found: Sequence[BackendEvent]) -> bool:
    one, other = joined(expected, request.n), joined(found, request.n)
    return [choice.ids for choice in one.choices] == [choice.ids for choice in other.choices]


def compare(
    request: GenerateRequest,
    expected: Sequence[BackendEvent],
    found: Sequence[BackendEvent],
    dtype: str = "float32",
) -> None:
    how = f"{request}"
    assert [type(event) for event in found if not isinstance(event, TextDelta)] == [Accepted, Finished], how
    assert isinstance(found[0], Accepted) and isinstance(found[-1], Finished), how
    assert isinstance(expected[0], Accepted)
    assert (found[0].prompt_tokens, found[0].digest) == (expected[0].prompt_tokens, expected[0].digest), how
    _check_order(found)
    one, other = joined(expected, request.n), joined(found, request.n)
    for index in range(request.n):
        compare_choice(one.choices[index], other.choices[index], f"choice {index} of {how}", dtype)
        compare_choice(one.echoes[index], other.echoes[index], f"echo {index} of {how}", dtype)
    assert other.reasons == one.reasons, how
    assert other.usage.prompt_tokens == one.usage.prompt_tokens, how
    assert other.usage.completion_tokens == one.usage.completion_tokens, how
    assert rendered(found, request.n) == rendered(expected, request.n), how


def compare_choice(expected: Choice, found: Choice, how: str, dtype: str) -> None:
    assert found.text == expected.text, how
    assert found.ids == expected.ids, how
    assert calls(found.pieces) == calls(expected.pieces), how
    assert [_named(entry, dtype) for entry in found.logprobs] == [_named(entry, dtype) for entry in expected.logprobs]
    for one, other in zip(expected.logprobs, found.logprobs, strict=True):
        assert _values(other) == pytest.approx(_values(one), abs=LOGPROB_TOLERANCES[dtype]), how


def _check_order(events: Sequence[BackendEvent]) -> None:
    """The echo comes before the answer."""
    begun: set[int] = set()
    for event in events:
        if isinstance(event, TextDelta):
            assert not (event.is_prompt and event.choice in begun)
            if not event.is_prompt:
                begun.add(event.choice)


def _named(entry: TokenLogprob, dtype: str) -> tuple[Any, ...]:
    """The likeliest tokens in float32 only: in bfloat16 many are equally likely but for rounding."""
    likeliest = [(each.token_id, each.token) for each in entry.top] if dtype == "float32" else len(entry.top)
    return entry.token_id, entry.token, entry.logprob is None, likeliest


def _values(entry: TokenLogprob) -> list[float]:
    return [value for value in (entry.logprob, *(each.logprob for each in entry.top)) if value is not None]


def calls(pieces: Sequence[ToolCallDelta]) -> list[tuple[int, str | None, str | None, str]]:
    """Index, id, name and arguments of each call: only its first piece may have id and name."""
    found: dict[int, list[ToolCallDelta]] = {}
    for piece in pieces:
        found.setdefault(piece.index, []).append(piece)
    assert all(piece.id is None and piece.name is None for first, *others in found.values() for piece in others)
    return [
        (index, first.id, first.name, "".join(piece.arguments for piece in (first, *others)))
        for index, (first, *others) in found.items()
    ]


def rendered(events: Sequence[BackendEvent], choices: int) -> list[bytes]:
    """The bytes of both dialects, where what was said of one choice is said in one delta. Without logprobs, which
    differ in their last digits, and without the tokens that needed no computing, which are a worker's own affair."""
    texts: dict[tuple[int, bool], str] = {}
    pieces: dict[int, list[ToolCallDelta]] = {}
    for event in events:
        if isinstance(event, TextDelta):
            key = event.choice, not event.is_prompt
            texts[key] = texts.get(key, "") + event.text
            pieces.setdefault(event.choice, []).extend(event.tool_calls)
    deltas = [TextDelta(text, choice=choice) for (choice, _), text in sorted(texts.items())]
    deltas += [
        TextDelta(choice=choice, tool_calls=tuple(ToolCallDelta(*call) for call in calls(said)))
        for choice, said in sorted(pieces.items())
    ]
    first, last = events[0], events[-1]
    assert isinstance(first, Accepted) and isinstance(last, Finished)
    last = msgspec.structs.replace(last, usage=msgspec.structs.replace(last.usage, cached_tokens=0))
    renderers = [SseRenderer(each, ResponseHead("id", 1, "m"), True, choices) for each in (CHAT, COMPLETION)]
    return [renderer.render([first, *deltas, last]) for renderer in renderers]
