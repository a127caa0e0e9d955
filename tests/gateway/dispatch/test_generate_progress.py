"""How an answer goes on: cut anywhere, any number of times, what the client was given is the whole, once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dispatch.generate_progress import (
    MAX_TRIES_BY_TEXT,
    MAX_UNSENT_TOKENS,
    GenerateProgress,
    together,
)
from p2pnet.features import RESUME
from p2pnet.messages import (
    MAX_RESUME_CHARS,
    Accepted,
    Finished,
    FinishReason,
    GenerateRequest,
    Sampling,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
    choice_seed,
)
from p2pnet.records import ModelCard
from p2pnet.wire.answer_limits import MAX_TEMPLATE_TOKENS
from tests.depth import examples
from tests.stories import DIGEST, ask, card

OTHER_DIGEST = "sha256:" + "cd" * 32
SEED = 7
PROMPT_TOKENS = 5
ECHO = "päst tense"

SAME = card("echo", features=("text", RESUME))
PLAIN = card("echo", features=("text",), digest=DIGEST)
OTHER = card("echo", features=("text", RESUME), digest=OTHER_DIGEST)

GivenEvent = Accepted | TextDelta | Finished


# ---- a worker, whose answers are known


@dataclass(frozen=True)
class Told:
    """One token of an answer."""

    text: str = ""
    call: ToolCallDelta | None = None


@dataclass(frozen=True)
class Whole:
    """One answer: its tokens, what is said last without ids, and how many more tokens count (an end, a stop string)."""

    tokens: tuple[Told, ...] = ()
    rest: str = ""
    unsent: int = 0
    reason: FinishReason = "stop"

    @property
    def text(self) -> str:
        return "".join(told.text for told in self.tokens) + self.rest

    @property
    def count(self) -> int:
        return len(self.tokens) + bool(self.rest) + self.unsent


def pieces(items: Sequence[Any], rng: random.Random) -> list[Sequence[Any]]:
    """The same in as many parts as chance will have it, none of them empty."""
    cuts = sorted({0, len(items), *(rng.randint(0, len(items)) for _ in range(rng.randint(0, 3)))})
    return [items[start:end] for start, end in pairwise(cuts)]


def likely(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, b"t", -0.5)


class Teller:
    """A worker that knows the answers: `wholes`, one for each choice. It checks where it is to go on. With `base` the
    ids of its vocabulary begin there; without ids it has no RESUME, and cuts texts as it likes."""

    def __init__(self, wholes: Sequence[Whole], rng: random.Random, model: ModelCard = SAME, base: int = 0) -> None:
        self.model = model
        self._wholes = {choice_seed(SEED, index): whole for index, whole in enumerate(wholes)}
        self._rng = rng
        self._base = base

    def answer(self, request: GenerateRequest) -> list[GivenEvent]:
        assert request.digest in (None, self.model.digest)
        wholes = [self._wholes[choice_seed(request.sampling.seed, index)] for index in range(request.n)]
        queues = [self._deltas(request, whole, choice) for choice, whole in enumerate(wholes)]
        mixed: list[GivenEvent] = []
        while queues := [queue for queue in queues if queue]:
            mixed.append(self._rng.choice(queues).pop(0))
        before = wholes[0].text[: len(request.resume_text)]
        counted = sum(whole.count for whole in wholes) - len(before)
        usage = Usage(PROMPT_TOKENS + len(before), counted)
        reasons = tuple(whole.reason for whole in wholes)
        accepted = Accepted(usage.prompt_tokens, self.model.digest)
        return [accepted, *mixed, Finished(reasons[0], usage, other_reasons=reasons[1:])]

    def _deltas(self, request: GenerateRequest, whole: Whole, choice: int) -> list[TextDelta]:
        return [*self._echoed(request, choice), *self._said(request, whole, choice)]

    def _echoed(self, request: GenerateRequest, choice: int) -> list[TextDelta]:
        if not request.echo:
            return []
        return [self._delta(request, part, choice, is_prompt=True) for part in pieces(list(enumerate(ECHO)), self._rng)]

    def _said(self, request: GenerateRequest, whole: Whole, choice: int) -> list[TextDelta]:
        if request.resume_text:
            assert whole.text.startswith(request.resume_text)
            left = whole.text[len(request.resume_text) :]
            whole = Whole(tuple(Told(character) for character in left))
        start = len(request.resume_tokens)
        assert request.resume_tokens == tuple(range(self._base, self._base + start))
        assert start <= len(whole.tokens)
        if RESUME not in self.model.features:
            return [TextDelta("".join(part), choice=choice) for part in pieces(whole.text, self._rng)]
        numbered = list(enumerate(whole.tokens))[start:]
        deltas = []
        for part in pieces(numbered, self._rng):
            calls = tuple(told.call for _, told in part if told.call is not None)
            said = [(index, told.text) for index, told in part]
            deltas.append(msgspec.structs.replace(self._delta(request, said, choice), tool_calls=calls))
        return deltas + ([TextDelta(whole.rest, choice=choice)] if whole.rest else [])

    def _delta(
        self, request: GenerateRequest, part: Sequence[tuple[int, str]], choice: int, is_prompt: bool = False
    ) -> TextDelta:
        ids = tuple(self._base + index for index, _ in part)
        logprobs = tuple(map(likely, ids)) if request.logprobs is not None else ()
        return TextDelta("".join(text for _, text in part), ids, choice, logprobs, is_prompt=is_prompt)


def attempt(
    progress: GenerateProgress, teller: Teller, request: GenerateRequest, cut: int | None = None, by_text: bool = False
) -> list[GivenEvent]:
    """As the dispatcher does it: the attempt begins with its first part of the answer. It ends before event `cut`."""
    events = teller.answer(request)[:cut]
    opening = [index for index, event in enumerate(events) if not isinstance(event, Accepted)]
    if not opening:
        return []
    progress.begin(teller.model, by_text)
    return [passed for event in events for passed in progress.take(event)]


def deltas_of(events: Sequence[GivenEvent], choice: int, is_prompt: bool = False) -> list[TextDelta]:
    deltas = [event for event in events if isinstance(event, TextDelta)]
    return [delta for delta in deltas if delta.choice == choice and delta.is_prompt == is_prompt]


def joined(deltas: Sequence[TextDelta]) -> tuple[str, list[int], list[TokenLogprob], list[ToolCallDelta]]:
    """All that they say: text, ids, logprobs and calls."""
    return (
        "".join(delta.text for delta in deltas),
        [token_id for delta in deltas for token_id in delta.token_ids],
        [entry for delta in deltas for entry in delta.logprobs],
        [call for delta in deltas for call in delta.tool_calls],
    )


TOLD = st.one_of(
    st.builds(Told, st.sampled_from(["", "a", "bc", " d", "é"])),
    st.just(Told(call=ToolCallDelta(0, arguments="{"))),
)
WHOLE = st.builds(
    Whole,
    st.lists(TOLD, max_size=7).map(tuple),
    st.sampled_from(["", "rest"]),
    st.integers(0, 3),
    st.sampled_from(["stop", "length"]),
)
TEXT_WHOLE = st.builds(
    Whole, st.lists(st.builds(Told, st.sampled_from(["a", "bc", "é"])), max_size=7).map(tuple), st.just("")
)
RNG = st.integers(0, 1 << 32).map(random.Random)


# ---- by ids


def serve_apart(progress: GenerateProgress, wholes: Sequence[Whole], rng: random.Random) -> list[GivenEvent]:
    """Each answer goes on by itself, and breaks off some more times."""
    parts = progress.split()
    events: list[GivenEvent] = []
    for part in parts:
        while not part.is_over:
            assert part.can_go_on_exactly
            cut = rng.choice([None, rng.randint(0, 6)])
            events += attempt(part, Teller(wholes, rng), part.continuation(), cut)
    return [*events, together(parts)]


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(WHOLE, min_size=1, max_size=3), RNG, st.booleans(), st.sampled_from([None, 0]))
def test_wherever_an_answer_is_cut_the_client_has_the_whole_of_it_once(
    wholes: list[Whole], rng: random.Random, echo: bool, logprobs: int | None
) -> None:
    request = ask(n=len(wholes), echo=echo, logprobs=logprobs, sampling=Sampling(seed=SEED))
    progress, events = GenerateProgress(request), list[GivenEvent]()
    while not progress.is_over:
        cut = rng.choice([None, rng.randint(0, 8), rng.randint(0, 30)])
        events += attempt(progress, Teller(wholes, rng), progress.continuation(), cut)
        if not progress.is_over and progress.is_splittable:
            events += serve_apart(progress, wholes, rng)
            break
    assert events[0] == Accepted(PROMPT_TOKENS, DIGEST)
    assert not any(isinstance(event, Accepted | Finished) for event in events[1:-1])
    for choice, whole in enumerate(wholes):
        echoed = joined(deltas_of(events, choice, is_prompt=True))
        ids = list(range(len(ECHO)))
        assert echoed[:3] == ((ECHO, ids, [] if logprobs is None else list(map(likely, ids))) if echo else ("", [], []))
        text, ids, entries, calls = joined(deltas_of(events, choice))
        assert (text, ids) == (whole.text, list(range(len(whole.tokens))))
        assert entries == ([] if logprobs is None else list(map(likely, ids)))
        assert calls == [told.call for told in whole.tokens if told.call is not None]
    usage = Usage(PROMPT_TOKENS, sum(whole.count for whole in wholes))
    reasons = tuple(whole.reason for whole in wholes)
    assert events[-1] == Finished(reasons[0], usage, other_reasons=reasons[1:])


def test_what_comes_last_without_ids_waits_for_the_end() -> None:
    teller = Teller([Whole((Told("a"), Told("b")), "rest")], random.Random(1))
    progress = GenerateProgress(ask(sampling=Sampling(seed=SEED)))
    progress.begin(SAME)
    events = teller.answer(progress.continuation())
    given_text = "".join(
        passed.text for event in events[:-1] for passed in progress.take(event) if isinstance(passed, TextDelta)
    )
    assert given_text == "ab"
    assert progress.can_go_on_exactly
    assert progress.continuation().resume_tokens == (0, 1)
    passed, end = progress.take(events[-1])
    assert isinstance(passed, TextDelta) and passed.text == "rest"
    assert isinstance(end, Finished)


def test_until_the_client_has_a_part_of_the_answer_any_weights_will_do() -> None:
    progress = GenerateProgress(ask())
    progress.begin(SAME)
    assert progress.take(Accepted(PROMPT_TOKENS, DIGEST)) == []
    assert progress.continuation() == ask()
    progress.begin(OTHER)
    assert progress.take(Accepted(9, OTHER_DIGEST)) == []
    assert progress.take(TextDelta("a", (1,))) == [Accepted(9, OTHER_DIGEST), TextDelta("a", (1,))]
    assert progress.continuation() == ask(digest=OTHER_DIGEST, sampler="", resume_tokens=(1,))


def test_an_answer_of_nothing_is_an_answer() -> None:
    progress = GenerateProgress(ask())
    progress.begin(SAME)
    progress.take(Accepted(PROMPT_TOKENS, DIGEST))
    assert progress.take(Finished("stop", Usage(PROMPT_TOKENS, 1))) == [
        Accepted(PROMPT_TOKENS, DIGEST),
        Finished("stop", Usage(PROMPT_TOKENS, 1)),
    ]
    assert progress.is_over


# ---- by text


def tellers(wholes: Sequence[Whole], rng: random.Random) -> list[Teller]:
    return [Teller(wholes, rng), Teller(wholes, rng, PLAIN), Teller(wholes, rng, OTHER, base=1000)]


def step(progress: GenerateProgress, teller: Teller) -> tuple[GenerateRequest, bool] | None:
    """What this worker can be asked, and whether that is by text; None when nothing."""
    request, text = progress.continuation(), progress.continuation_by_text()
    has_digest = request.digest in (None, teller.model.digest)
    if has_digest and progress.can_go_on_exactly and (RESUME in teller.model.features or not request.resume_tokens):
        return request, False
    return None if text is None else (text, True)


@settings(max_examples=examples(400), deadline=None)
@given(TEXT_WHOLE, RNG)
def test_an_answer_goes_on_by_text_at_whatever_worker(whole: Whole, rng: random.Random) -> None:
    progress, events = GenerateProgress(ask(sampling=Sampling(seed=SEED))), list[GivenEvent]()
    while not progress.is_over:
        teller = rng.choice(tellers([whole], rng))
        if (asked := step(progress, teller)) is not None:
            events += attempt(progress, teller, asked[0], rng.choice([None, rng.randint(0, 6)]), by_text=asked[1])
    assert joined(deltas_of(events, 0))[0] == whole.text
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
    assert events[-1].usage.prompt_tokens == PROMPT_TOKENS


def begun(*deltas: TextDelta, model: ModelCard = SAME, **fields: Any) -> GenerateProgress:
    """An answer that broke off after these."""
    progress = GenerateProgress(ask(**fields))
    progress.begin(model)
    progress.take(Accepted(PROMPT_TOKENS, model.digest))
    for delta in deltas:
        progress.take(delta)
    return progress


def test_what_follows_a_text_is_not_gone_on_with_by_ids() -> None:
    progress = begun(TextDelta("one", (0,)))
    assert progress.can_go_on_exactly
    progress.begin(OTHER, by_text=True)
    progress.take(TextDelta(" two", (1001,)))
    assert not progress.can_go_on_exactly
    again = progress.continuation_by_text()
    assert again is not None and (again.resume_text, again.resume_tokens, again.digest) == ("one two", (), None)


@pytest.mark.parametrize(
    "progress",
    [
        begun(TextDelta("one", (0,)), model=PLAIN),
        begun(TextDelta("one"), model=PLAIN),
        begun(TextDelta("one"), TextDelta(" two", (0,))),
        begun(TextDelta("one"), TextDelta(" two")),
    ],
    ids=["no promise", "no ids", "ids that lack the first", "no ids at all of who names them"],
)
def test_ids_that_do_not_say_it_all_are_not_gone_on_from(progress: GenerateProgress) -> None:
    assert not progress.can_go_on_exactly
    assert progress.continuation_by_text() is not None


@pytest.mark.parametrize(
    "progress",
    [
        GenerateProgress(ask()),
        begun(TextDelta(token_ids=(0,)), model=PLAIN),
        begun(TextDelta("one", (0,)), TextDelta(tool_calls=(ToolCallDelta(0, "c", "f"),)), model=PLAIN),
        begun(TextDelta("one"), n=2, model=PLAIN),
        begun(TextDelta("a" * (MAX_RESUME_CHARS + 1)), model=PLAIN),
        begun(TextDelta(ECHO, is_prompt=True), echo=True, model=PLAIN),
    ],
    ids=["nothing yet", "ids alone", "a call", "two answers", "too long", "only the echo"],
)
def test_where_text_does_not_say_enough_there_is_nothing_to_ask_for(progress: GenerateProgress) -> None:
    assert progress.continuation_by_text() is None


def test_a_text_counts_as_the_prompts_and_the_limits_are_of_the_rest() -> None:
    deltas = [TextDelta(word, (index,)) for index, word in enumerate("abc")]
    text = begun(*deltas, max_tokens=10, min_tokens=5, echo=True).continuation_by_text()
    assert text is not None and not text.echo
    assert (text.max_tokens, text.min_tokens, text.resume_text) == (7, 2, "abc")
    assert begun(*deltas, max_tokens=3, min_tokens=3).continuation_by_text() is None


@pytest.mark.parametrize(
    ("deltas", "fields", "is_over"),
    [
        ([TextDelta("a"), TextDelta("b")], {"max_tokens": 2}, True),
        ([TextDelta("ab", tokens=2)], {"max_tokens": 2}, True),
        ([TextDelta("abc", tokens=3)], {"max_tokens": 2}, True),
        ([TextDelta("a")], {"max_tokens": 2}, False),
        ([TextDelta("a"), TextDelta("b")], {}, False),
        ([TextDelta("a"), TextDelta("b", choice=1)], {"max_tokens": 1, "n": 2}, False),
        ([TextDelta("a", (0,)), TextDelta("b", (1,))], {"max_tokens": 2}, False),
    ],
    ids=["all", "all in one", "more", "one is left", "no limit", "several", "a stop string may have ended it"],
)
def test_a_text_that_broke_off_with_all_its_tokens_is_over(
    deltas: list[TextDelta], fields: dict[str, Any], is_over: bool
) -> None:
    progress = begun(*deltas, model=SAME if deltas[0].token_ids else PLAIN, **fields)
    tokens = sum(delta.tokens or 1 for delta in deltas)
    assert progress.end_at_limit() == ([Finished("length", Usage(PROMPT_TOKENS, tokens))] if is_over else [])
    assert progress.is_over == is_over


def test_the_tokens_of_all_tries_count_towards_the_limit() -> None:
    progress = begun(TextDelta("a"), TextDelta("bc", tokens=2), model=PLAIN, max_tokens=6)
    again = progress.continuation_by_text()
    assert again is not None and again.max_tokens == 3
    progress.begin(PLAIN, by_text=True)
    progress.take(Accepted(9, DIGEST))
    progress.take(TextDelta("def", tokens=3))
    assert progress.end_at_limit() == [Finished("length", Usage(PROMPT_TOKENS, 6))]


def test_an_answer_goes_on_by_text_so_often_and_no_more() -> None:
    progress = begun(TextDelta("a"), model=PLAIN)
    for _ in range(MAX_TRIES_BY_TEXT):
        assert progress.continuation_by_text() is not None
        progress.begin(PLAIN, by_text=True)
        progress.take(TextDelta("a"))
    assert progress.continuations() == []


def test_the_parts_of_several_answers_go_on_each_by_its_own_seed_and_under_its_own_number() -> None:
    progress = begun(TextDelta("a", (0,)), TextDelta("b", (0,), choice=1), n=3, sampling=Sampling(seed=SEED))
    assert progress.is_splittable
    parts = progress.split()
    requests = [part.continuation() for part in parts]
    assert [request.n for request in requests] == [1, 1, 1]
    assert [request.sampling.seed for request in requests] == [choice_seed(SEED, index) for index in range(3)]
    assert [request.resume_tokens for request in requests] == [(0,), (0,), ()]
    assert {(request.digest, request.sampler) for request in requests} == {(DIGEST, SAME.sampler)}
    for index, part in enumerate(parts):
        part.begin(SAME)
        assert part.take(Accepted(PROMPT_TOKENS)) == []
        assert part.take(TextDelta("c", (1,))) == [TextDelta("c", (1,), choice=index)]
        assert part.take(Finished("length" if index else "stop", Usage(PROMPT_TOKENS, 2, cached_tokens=index))) == []
    assert together(parts) == Finished("stop", Usage(PROMPT_TOKENS, 6), other_reasons=("length", "length"))


def test_a_part_that_goes_on_by_text_has_the_prompt_that_the_client_was_told_of() -> None:
    part = begun(TextDelta("a", (0,)), TextDelta("b", (0,), choice=1), n=2, max_tokens=9).split()[1]
    part.begin(OTHER, by_text=True)
    part.take(Accepted(7, OTHER_DIGEST))
    part.take(Finished("stop", Usage(7, 1)))
    assert part.finished is not None and part.finished.usage == Usage(PROMPT_TOKENS, 2)


# ---- counts that cannot be

HUGE = (1 << 53) - 1


@pytest.mark.parametrize(
    ("said", "model", "told"),
    [
        (Usage(5, 3), SAME, Usage(5, 3)),
        (Usage(5, 3 + MAX_UNSENT_TOKENS), SAME, Usage(5, 3 + MAX_UNSENT_TOKENS)),
        (Usage(5, 2), SAME, Usage(5, 3)),
        (Usage(5, 4 + MAX_UNSENT_TOKENS), SAME, Usage(5, 3)),
        (Usage(5, HUGE), SAME, Usage(5, 3)),
        (Usage(5, 0), PLAIN, Usage(5, 3)),
        (Usage(5, 1), PLAIN, Usage(5, 1)),
        (Usage(5, 100), PLAIN, Usage(5, 100)),
        (Usage(5, 101), PLAIN, Usage(5, 3)),
        (Usage(5, HUGE), PLAIN, Usage(5, 3)),
        (Usage(5, 3, cached_tokens=HUGE), SAME, Usage(5, 3, cached_tokens=5)),
        (Usage(MAX_TEMPLATE_TOKENS, 3), SAME, Usage(MAX_TEMPLATE_TOKENS, 3)),
    ],
)
def test_a_worker_counts_what_it_can_have_sent(said: Usage, model: ModelCard, told: Usage) -> None:
    deltas = [TextDelta("a", (index,) if model is SAME else ()) for index in range(3)]
    progress = begun(*deltas, model=model, max_tokens=100)
    *_, end = progress.take(Finished("stop", said))
    assert isinstance(end, Finished) and end.usage == told


def test_a_prompt_has_no_more_tokens_than_it_can_have() -> None:
    progress = GenerateProgress(ask(text="hi"))
    progress.begin(SAME)
    progress.take(Accepted(HUGE, DIGEST))
    accepted, end = progress.take(Finished("stop", Usage(HUGE, 1)))
    assert isinstance(accepted, Accepted) and isinstance(end, Finished)
    assert accepted.prompt_tokens == end.usage.prompt_tokens < MAX_TEMPLATE_TOKENS + 100


@pytest.mark.parametrize("model", [SAME, PLAIN])
def test_what_was_counted_before_a_text_went_on_is_counted_too(model: ModelCard) -> None:
    progress = begun(TextDelta("a", (0,)), TextDelta("b", (1,)), max_tokens=100)
    progress.begin(model, by_text=True)
    progress.take(Accepted(7))
    progress.take(TextDelta("c", (9,) if model is SAME else ()))
    *_, end = progress.take(Finished("stop", Usage(7, 1)))
    assert isinstance(end, Finished) and end.usage == Usage(PROMPT_TOKENS, 3)
