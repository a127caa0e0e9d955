"""The limits of an answer: all that was asked for passes, and nothing more, in whatever way a worker goes beyond it."""

from __future__ import annotations

import math

import msgspec
import pytest

from p2pnet.errors import ProtocolViolation
from p2pnet.messages import (
    MAX_TOOLS,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    TextDelta,
    TokenLogprob,
    TokenPrompt,
    Tool,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from p2pnet.wire.answer_limits import MAX_CHARS_PER_TOKEN, MAX_DELTAS_PER_TOKEN, SPARE_DELTAS, AnswerLimits
from tests.stories import ask

CHAT = ChatPrompt((Message("user", "Hi"),))
TOOLS = GenerateRequest("r1", "echo", msgspec.structs.replace(CHAT, tools=(Tool("now"),)))
NO_TOOLS = GenerateRequest("r1", "echo", CHAT)

TOKEN = TextDelta("a", (1,))


def likely(logprob: float | None = -0.5, *top: float) -> TokenLogprob:
    return TokenLogprob(1, b"a", logprob, tuple(TopLogprob(1, b"a", each) for each in top))


def told(*logprobs: TokenLogprob, ids: int | None = None, is_prompt: bool = False) -> TextDelta:
    return TextDelta("a", (1,) * (len(logprobs) if ids is None else ids), logprobs=logprobs, is_prompt=is_prompt)


def called(index: int = 0, arguments: str = "{}") -> TextDelta:
    return TextDelta(token_ids=(1,), tool_calls=(ToolCallDelta(index, "c0", "now", arguments),))


def of_choice(choice: int) -> TextDelta:
    return msgspec.structs.replace(TOKEN, choice=choice)


PROMPT = TextDelta("one two three", (1, 2, 3), is_prompt=True)

ALLOWED: dict[str, tuple[GenerateRequest, list[TextDelta]]] = {
    "nothing": (ask(), []),
    "as many tokens as asked for": (ask(), [TOKEN] * 10),
    "and text that was held back": (ask(), [TOKEN] * 10 + [TextDelta("b")]),
    "long tokens": (ask(), [TextDelta("a" * MAX_CHARS_PER_TOKEN, (1,))] * 10),
    "text without ids": (ask(), [TextDelta("a")] * (MAX_DELTAS_PER_TOKEN * 10 + SPARE_DELTAS)),
    "each choice its own": (ask(n=3), [of_choice(choice) for choice in (0, 2, 1)] * 10),
    "the echo first": (ask(echo=True), [PROMPT, *[TOKEN] * 10]),
    "the echo of each choice": (
        ask(echo=True, n=2),
        [PROMPT, TOKEN, msgspec.structs.replace(PROMPT, choice=1), of_choice(1)],
    ),
    "the echo of ids": (
        GenerateRequest("r1", "echo", TokenPrompt((1,) * 100), echo=True),
        [TextDelta("a" * 100, (1,) * 100, is_prompt=True)],
    ),
    "the rest of an answer": (ask(resume_tokens=(1, 2, 3)), [TOKEN] * 7),
    "what comes after a text": (ask(resume_text="one two"), [TOKEN] * 10),
    "logprobs": (ask(logprobs=0), [told(likely()), told(likely(), likely(0.0))]),
    "likely ones": (ask(logprobs=2), [told(likely(-0.5, -0.5, -1.5)), told(likely(-0.5))]),
    "logprobs without ids": (ask(logprobs=0), [told(likely(), likely(), ids=0)]),
    "text that was held back, without logprobs": (ask(logprobs=0), [told(likely()), TextDelta("b")]),
    "a first token that nothing predicts": (ask(logprobs=0, echo=True), [told(likely(None), is_prompt=True)]),
    "a tool call": (TOOLS, [called()]),
    "as many calls as there may be": (TOOLS, [called(MAX_TOOLS - 1)]),
}

REFUSED: dict[str, tuple[GenerateRequest, list[TextDelta]]] = {
    "a token more": (ask(), [TOKEN] * 11),
    "tokens at once": (ask(), [TextDelta("a", (1,) * 11)]),
    "a token more for one choice": (ask(n=2), [of_choice(1)] * 11),
    "text without end": (ask(), [TextDelta("a" * MAX_CHARS_PER_TOKEN)] * 12),
    "deltas without end": (ask(), [TextDelta()] * (MAX_DELTAS_PER_TOKEN * 10 + SPARE_DELTAS + 1)),
    "arguments without end": (TOOLS, [called(arguments="a" * 12 * MAX_CHARS_PER_TOKEN)]),
    "a choice too many": (ask(), [of_choice(1)]),
    "a choice too many of several": (ask(n=3), [of_choice(3)]),
    "an echo that nobody asked for": (ask(), [PROMPT]),
    "an echo that comes late": (ask(echo=True), [TOKEN, PROMPT]),
    "an echo longer than any prompt": (ask(echo=True), [TextDelta("a", (1,) * 20_000, is_prompt=True)]),
    "an echo of more text than any prompt": (ask(echo=True), [TextDelta("a" * 100_000, is_prompt=True)]),
    "tokens that it was given": (ask(resume_tokens=(1, 2, 3)), [TOKEN] * 8),
    "a token more after a text": (ask(resume_text="one two"), [TOKEN] * 11),
    "more than nothing was left": (ask(resume_tokens=(1,) * 10), [TOKEN]),
    "logprobs that nobody asked for": (ask(), [told(likely())]),
    "no logprobs": (ask(logprobs=0), [TOKEN]),
    "too few logprobs": (ask(logprobs=0), [told(likely(), ids=2)]),
    "too many logprobs": (ask(logprobs=0), [told(likely(), likely(), ids=1)]),
    "logprobs without end": (ask(logprobs=0), [told(*[likely()] * 6, ids=0)] * 2),
    "more likely ones than asked for": (ask(logprobs=1), [told(likely(-0.5, -0.5, -1.5))]),
    "a logprob that is no number": (ask(logprobs=0), [told(likely(math.nan))]),
    "a logprob without bounds": (ask(logprobs=0), [told(likely(-math.inf))]),
    "a likely one that is no number": (ask(logprobs=1), [told(likely(-0.5, math.nan))]),
    "a likely one without bounds": (ask(logprobs=1), [told(likely(-0.5, math.inf))]),
    "no logprob for a token of the answer": (ask(logprobs=0), [told(likely(None))]),
    "a call without tools": (NO_TOOLS, [called()]),
    "a call in a completion": (ask(), [called()]),
    "more calls than anyone makes": (TOOLS, [called(MAX_TOOLS)]),
}


@pytest.mark.parametrize(("request_", "deltas"), ALLOWED.values(), ids=ALLOWED)
def test_what_was_asked_for_passes(request_: GenerateRequest, deltas: list[TextDelta]) -> None:
    answer_limits = AnswerLimits(request_, max_tokens=10)
    for delta in deltas:
        answer_limits.check_delta(delta)


@pytest.mark.parametrize(("request_", "deltas"), REFUSED.values(), ids=REFUSED)
def test_what_was_not_asked_for_does_not(request_: GenerateRequest, deltas: list[TextDelta]) -> None:
    answer_limits = AnswerLimits(request_, max_tokens=10)
    for delta in deltas[:-1]:
        answer_limits.check_delta(delta)
    with pytest.raises(ProtocolViolation):
        answer_limits.check_delta(deltas[-1])


@pytest.mark.parametrize(("n", "others", "is_fine"), [(1, 0, True), (3, 2, True), (1, 1, False), (3, 0, False)])
def test_an_end_has_a_reason_for_each_choice(n: int, others: int, is_fine: bool) -> None:
    answer_limits = AnswerLimits(ask(n=n), max_tokens=10)
    finished = Finished("stop", Usage(1, 1), other_reasons=("length",) * others)
    if is_fine:
        answer_limits.check_finished(finished)
    else:
        with pytest.raises(ProtocolViolation):
            answer_limits.check_finished(finished)
