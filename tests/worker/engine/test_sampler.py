"""The sampler is a pure function of (logits, seed, position) and the ids so far, and draws as it should."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from p2pnet.errors import WorkerFailed
from p2pnet.messages import Sampling
from p2pnet.worker.engine.sampler import OccurrencePenalty, Sampler
from tests.depth import scaled

VOCABULARY = 50
DRAWS = scaled(ci=2_000, deep=100_000)
PLAIN_DRAWS = scaled(ci=10_000, deep=1_000_000)


def logits_of(seed: int, size: int = VOCABULARY) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def choose(sampling: Sampling, logits: torch.Tensor, ids: list[int], prompt_tokens: int = 0) -> int:
    return Sampler(sampling, prompt_tokens).choose(logits, ids)


samplings = st.builds(
    Sampling,
    seed=st.integers(0, 2**63 - 1),
    temperature=st.sampled_from([0.0, 1e-6, 0.3, 1.0, 2.5, 100.0]),
    top_k=st.sampled_from([0, 1, 5, 1000]),
    top_p=st.sampled_from([1e-9, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 1.5, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
)
histories = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12)


@given(samplings, st.lists(histories, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_choice_depends_on_nothing_but_its_arguments(
    sampling: Sampling, steps: list[list[int]], order: random.Random
) -> None:
    """Neither on which steps were asked before, nor on the sampler object, nor on torch's own random state."""
    expected = [choose(sampling, logits_of(len(ids)), ids, 1) for ids in steps]
    shuffled = list(range(len(steps)))
    order.shuffle(shuffled)
    torch.manual_seed(order.getrandbits(32))
    sampler = Sampler(sampling, 1)
    found = {index: sampler.choose(logits_of(len(steps[index])), steps[index]) for index in shuffled}
    assert [found[index] for index in range(len(steps))] == expected


@given(samplings, histories)
def test_logits_are_not_changed(sampling: Sampling, ids: list[int]) -> None:
    logits = logits_of(1)
    choose(sampling, logits, ids, 1)
    assert torch.equal(logits, logits_of(1))


DISTRIBUTIONS = [
    ("plain", Sampling(), PLAIN_DRAWS),
    ("a low temperature", Sampling(temperature=0.6), DRAWS),
    ("a high temperature", Sampling(temperature=2.0), DRAWS),
    ("top_k", Sampling(top_k=7), DRAWS),
    ("top_p", Sampling(top_p=0.8), DRAWS),
    ("min_p", Sampling(min_p=0.05), DRAWS),
    ("all three, warm", Sampling(temperature=1.5, top_k=20, top_p=0.9, min_p=0.02), DRAWS),
    ("repetition", Sampling(repetition_penalty=1.5), DRAWS),
    ("presence and frequency", Sampling(presence_penalty=1.0, frequency_penalty=0.5), DRAWS),
    ("bias", Sampling(logit_bias={3: 4.0, 290: -5.0}), DRAWS),
]


@pytest.mark.parametrize(("sampling", "draws"), [case[1:] for case in DISTRIBUTIONS], ids=[d[0] for d in DISTRIBUTIONS])
def test_the_tokens_have_the_distribution_that_transformers_gives_them(sampling: Sampling, draws: int) -> None:
    """Pearson's chi-square over as many seeds, on two blocks of ids, of which the second is short. A right sampler
    fails once in 30,000 choices of these seeds."""
    logits, ids = logits_of(11, size=300), [5, 9, 9, 260]
    expected = distribution(sampling, logits, ids)
    found = torch.zeros(len(logits), dtype=torch.float64)
    for seed in range(draws):
        found[choose(msgspec.structs.replace(sampling, seed=seed), logits, ids, 1)] += 1
    assert not found[expected == 0].any()
    assert is_of(expected, found)


def distribution(sampling: Sampling, logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """By transformers' own processors, in their order there; presence and frequency by OpenAI's formula."""
    scores = logits[None].clone()
    for token_id, bias in sampling.logit_bias.items():
        scores[0, token_id] += bias
    row = torch.tensor([ids])
    scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(row, scores)
    for token_id, count in Counter(ids[1:]).items():
        scores[0, token_id] -= sampling.presence_penalty + sampling.frequency_penalty * count
    scores = TemperatureLogitsWarper(sampling.temperature)(row, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(row, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(row, scores)
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(row, scores)
    return torch.softmax(scores[0].double(), dim=0)


def is_of(expected: torch.Tensor, found: torch.Tensor, deviations: float = 4.0) -> bool:
    """Whether counts `found` are of this distribution. Ids that are expected less than five times count as one; the
    bound is Wilson and Hilferty's (1931)."""
    often = expected * found.sum() >= 5
    wanted = torch.cat((expected[often], expected[~often].sum()[None])) * found.sum()
    counts = torch.cat((found[often], found[~often].sum()[None]))
    kept = wanted > 0
    freedom = int(kept.sum()) - 1
    statistic = float(((counts - wanted)[kept] ** 2 / wanted[kept]).sum())
    spread = 2 / (9 * max(1, freedom))
    return statistic <= freedom * (1 - spread + deviations * spread**0.5) ** 3


@pytest.mark.parametrize(("noise", "most"), [(1e-2, 5), (1e-3, 2)])
def test_rounding_changes_few_tokens(noise: float, most: int) -> None:
    """Of 200. A rule that goes through the cumulative distribution changes ten times as many."""
    rough = torch.Generator().manual_seed(3)
    changed = 0
    for position in range(200):
        logits = logits_of(position, size=5000)
        rounded = logits + torch.randn(len(logits), generator=rough) * noise
        ids = [0] * position
        changed += choose(Sampling(seed=9, top_p=0.95), logits, ids) != choose(
            Sampling(seed=9, top_p=0.95), rounded, ids
        )
    assert changed <= most


@pytest.mark.parametrize("temperature", [0.0, 1e-9])
def test_no_temperature_is_greedy(temperature: float) -> None:
    logits = logits_of(3)
    assert choose(Sampling(seed=9, temperature=temperature), logits, []) == int(logits.argmax())


def test_greedy_takes_the_first_of_equals() -> None:
    assert choose(Sampling(temperature=0), torch.tensor([0.0, 2.0, 2.0, 1.0]), []) == 1


def chosen_over_many_positions(sampling: Sampling, logits: torch.Tensor) -> set[int]:
    return {choose(sampling, logits, [0] * position) for position in range(300)}


FILTERS = [
    ("top_k keeps the k most likely", Sampling(top_k=2), {2, 3}),
    ("top_k of one is greedy", Sampling(top_k=1, temperature=5), {3}),
    ("top_k beyond the vocabulary keeps all", Sampling(top_k=99, temperature=5), {0, 1, 2, 3}),
    ("top_p keeps the fewest that reach p", Sampling(top_p=0.6), {2, 3}),
    ("top_p keeps one at least", Sampling(top_p=1e-9), {3}),
    ("min_p is relative to the most likely", Sampling(min_p=0.5), {2, 3}),
    ("min_p of one keeps the most likely", Sampling(min_p=1.0), {3}),
    ("a low temperature sharpens", Sampling(temperature=0.01), {3}),
]


@pytest.mark.parametrize(("sampling", "expected"), [case[1:] for case in FILTERS], ids=[case[0] for case in FILTERS])
def test_filters(sampling: Sampling, expected: set[int]) -> None:
    assert chosen_over_many_positions(sampling, torch.tensor([0.1, 0.15, 0.35, 0.4]).log()) == expected


PENALTIES = [
    ("none", Sampling(temperature=0), [0, 0], 0, 0),
    ("repetition divides what is positive", Sampling(temperature=0, repetition_penalty=2.0), [0], 0, 1),
    ("repetition counts the prompt", Sampling(temperature=0, repetition_penalty=2.0), [0], 1, 1),
    ("presence counts once", Sampling(temperature=0, presence_penalty=0.4), [0, 0, 0], 0, 0),
    ("presence is taken off", Sampling(temperature=0, presence_penalty=0.6), [0], 0, 1),
    ("presence leaves the prompt alone", Sampling(temperature=0, presence_penalty=2.0), [0], 1, 0),
    ("frequency counts each time", Sampling(temperature=0, frequency_penalty=0.2), [0, 0, 0], 0, 1),
    ("frequency leaves the prompt alone", Sampling(temperature=0, frequency_penalty=0.2), [0, 0, 0], 2, 0),
    ("negative presence invites", Sampling(temperature=0, presence_penalty=-1.0), [2], 0, 2),
]


@pytest.mark.parametrize(
    ("sampling", "ids", "prompt_tokens", "expected"),
    [case[1:] for case in PENALTIES],
    ids=[case[0] for case in PENALTIES],
)
def test_penalties(sampling: Sampling, ids: list[int], prompt_tokens: int, expected: int) -> None:
    assert choose(sampling, torch.tensor([2.0, 1.5, 1.4, -3.0]), ids, prompt_tokens) == expected


def test_occurrence_penalties_follow_the_definition() -> None:
    """mu[j] - c[j] * frequency - float(c[j] > 0) * presence, from OpenAI's API reference."""
    penalty = OccurrencePenalty(presence=0.5, frequency=0.25, prompt_tokens=2)
    scores = torch.zeros((1, 5))
    assert penalty(torch.tensor([[4, 4, 1, 2, 1]]), scores).tolist() == [[0.0, -1.0, -0.75, 0.0, 0.0]]
    assert scores.tolist() == [[0.0] * 5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers(bad: float) -> None:
    with pytest.raises(WorkerFailed):
        choose(Sampling(temperature=0), torch.tensor([0.0, bad, 1.0]), [])


def test_all_logits_ruled_out() -> None:
    with pytest.raises(WorkerFailed):
        choose(Sampling(), torch.full((4,), float("-inf")), [])
