"""Draws tokens by one arithmetic, and their margins by another. Pure, but for the numbers drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from bench.audits.arithmetic import Logits
from p2pnet.messages import Sampling
from p2pnet.score_messages import MAX_MARGIN
from p2pnet.worker.engine.sampler import Sampler

Margins = npt.NDArray[np.float32]
"""(places, seeds)."""


def margins(
    server: Logits,
    auditor: Logits,
    seeds: int,
    temperature: float = 1.0,
    served_temperature: float | None = None,
    served_seed: int = 0,
) -> Margins:
    """Of `seeds` answers with the same tokens before each place. The auditor's temperature and seed are those that were
    asked for; the server's are what it used. Temperature 0 is greedy.

    The noise is drawn anew, and is not that of the sampler: exponential numbers e, of which -ln e is the noise. The
    largest z / T - ln e is the smallest e exp(-z / T).
    """
    served = temperature if served_temperature is None else served_temperature
    found = np.zeros((len(server), seeds), np.float32)
    every = np.arange(seeds)
    for place, (theirs, ours) in enumerate(zip(server, auditor, strict=True)):
        noise = _noise(place, 1, seeds, len(ours))
        other = noise if not served_seed else _noise(place, served_seed, seeds, len(ours))
        chosen = (other * _weights(theirs, served)).argmin(axis=1) if served else np.full(seeds, theirs.argmax())
        if temperature:
            race = noise * _weights(ours, temperature)
            found[place] = temperature * np.log(race[every, chosen] / race.min(axis=1))
        else:
            found[place] = ours.max() - ours[chosen]
    return np.minimum(found, MAX_MARGIN)


def _noise(place: int, stream: int, seeds: int, candidates: int) -> Margins:
    drawn = np.random.default_rng([place, stream]).standard_exponential((seeds, candidates), np.float32)
    return np.maximum(drawn, np.float32(1e-30))  # it may be 0


def _weights(logits: Logits, temperature: float) -> Logits:
    weights: Logits = np.exp(np.minimum(80.0, (logits.max() - logits) / temperature)).astype(np.float32)
    return weights


def nucleus_margins(server: Logits, auditor: Logits, seeds: int, sampling: Callable[[int], Sampling]) -> Margins:
    """The same by the sampler itself, with all that it does."""
    found = np.empty((len(server), seeds), np.float32)
    for seed in range(seeds):
        sampler = Sampler(sampling(seed), 0)
        for place in range(len(server)):
            ids = range(place)
            chosen = sampler.choose(torch.from_numpy(server[place]), ids)
            (found[place, seed],) = sampler.margins(torch.from_numpy(auditor[place]), ids, [chosen])
    return found
