"""The sampler is a pure function of (logits, seed, position) and the ids so far, and draws as it should."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2pnet.errors import WorkerFailed
from p2pnet.messages import Sampling
from p2pnet.worker.engine.sampler import OccurrencePenalty, Sampler, inverse_cdf, uniform

VOCABULARY = 50
PINNED = [0.1183785611393453, 0.5740628464827315, 0.7775826697736945, 0.9505537831784577]


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


def test_the_random_numbers_are_fixed_for_all_versions() -> None:
    """Changing these breaks the promise that another worker goes on with the same tokens."""
    assert [uniform(0, 0), uniform(0, 1), uniform(1, 0), uniform(2**63 - 1, 4096)] == PINNED


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40))
def test_uniform_is_in_the_unit_interval(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1


def test_positions_and_seeds_draw_from_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    logits = probabilities.log()
    draws = Counter(choose(Sampling(seed=position % 7), logits, [0] * position) for position in range(4000))
    assert draws[1] == 0
    for token_id, probability in enumerate(probabilities.tolist()):
        assert abs(draws[token_id] / 4000 - probability) < 0.03


@pytest.mark.parametrize(
    ("probabilities", "uniform", "expected"),
    [
        ([0.5, 0.5], 0.0, 0),
        ([0.5, 0.5], 0.4999, 0),
        ([0.5, 0.5], 0.5, 1),
        ([0.0, 0.5, 0.5], 0.0, 1),
        ([0.5, 0.0, 0.5], 0.5, 2),
        ([0.5, 0.5, 0.0], 1 - 2**-53, 1),
        ([0.0, 1.0, 0.0], 1 - 2**-53, 1),
    ],
)
def test_the_edges_of_the_distribution(probabilities: list[float], uniform: float, expected: int) -> None:
    assert inverse_cdf(torch.tensor(probabilities).log(), uniform) == expected


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
