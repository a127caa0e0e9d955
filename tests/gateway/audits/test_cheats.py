"""Workers that cheat, each in its way, beside honest ones that audit them: they are flagged, and asked no more."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from p2pnet.messages import GenerateRequest
from tests.gateway.audits.audited_swarm import WRONG, Answer, Give, Model, answer, audited_swarm, changed, honest_answer
from tests.stories import card


def other_model(request: GenerateRequest) -> Answer:
    return answer(WRONG, request)


def few_bits(request: GenerateRequest) -> Answer:
    return answer(replace(Model(), drift=0.15), request)


def other_prompt(request: GenerateRequest) -> Answer:
    return answer(Model(), request, prompt=3)


def wrong_seed(request: GenerateRequest) -> Answer:
    return answer(Model(), changed(request, seed=request.sampling.seed + 1))


def lower_temperature(request: GenerateRequest) -> Answer:
    return answer(Model(), changed(request, temperature=0.6))


def greedy(request: GenerateRequest) -> Answer:
    return answer(Model(), changed(request, temperature=0.0))


def cut_short(request: GenerateRequest) -> Answer:
    whole = answer(Model(), request)
    return Answer(whole.ids[:6], "stop")


def other_text(request: GenerateRequest) -> Answer:
    """The right ids, and words that nobody would look up."""
    return replace(honest_answer(request), says="!")


def longer_prompt(request: GenerateRequest) -> Answer:
    """It ends early, since there is no room for more: so many tokens does the prompt have, as it says."""
    return Answer(honest_answer(request).ids[:6], "length", prompt_tokens=card().context_length - 6)


def withheld(request: GenerateRequest) -> Answer:
    return Answer(honest_answer(request).ids[:6], "content_filter")


class EveryTenth:
    """A cheap model for one answer in ten."""

    def __init__(self) -> None:
        self._rng = random.Random(3)

    def __call__(self, request: GenerateRequest) -> Answer:
        return other_model(request) if self._rng.random() < 0.1 else honest_answer(request)


@pytest.mark.parametrize(
    ("give", "aim"),
    [
        (other_model, 150),
        (few_bits, 1_200),
        (other_prompt, 150),
        (wrong_seed, 150),
        (lower_temperature, 300),
        (greedy, 200),
        (cut_short, 600),
        (other_text, 800),
        (withheld, 150),
        (EveryTenth(), 2_500),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
async def test_a_cheat_is_flagged_and_asked_no_more(give: Give, aim: int) -> None:
    """Two auditors have to find it, each by itself: the tokens are those of both together."""
    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", give)
        honest = [await swarm.join(f"honest {number}") for number in range(4)]
        tokens = await swarm.tokens_until_flagged(cheat)
        assert tokens <= aim, f"it took {tokens} tokens"

        before = len(cheat.requests)
        for _ in range(10):
            await swarm.ask(cheat)
        assert len(cheat.requests) == before, "a flagged worker was asked"
        assert not any(map(swarm.flag_of, honest))


async def test_who_says_that_there_is_no_room_for_more_is_flagged() -> None:
    """The length is left to the context, and only the number of the prompt's tokens says that it is full."""
    async with audited_swarm() as swarm:
        cheat = await swarm.join("cheat", longer_prompt)
        for number in range(3):
            await swarm.join(f"honest {number}")
        for _ in range(40):
            await swarm.ask(cheat, max_tokens=None)
            if (flag := swarm.flag_of(cheat)) is not None:
                break
        assert flag is not None and flag.tokens <= 100, "told by the prompt alone: its tokens and its ends are right"
