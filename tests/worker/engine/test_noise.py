"""The noise of the sampler is fixed, is what it says of its blocks, and has no pattern that a draw would show."""

from __future__ import annotations

import numpy as np
import pytest

from p2pnet.worker.engine.noise import Noise, exponential, splitmix64
from p2pnet.worker.engine.scores import BLOCK_IDS

PINNED = [
    (0, 0, 0, -1.2026036316717692),
    (0, 0, 1, 0.7903016372672726),
    (0, 1, 0, 0.4651389145311704),
    (1, 0, 262143, -0.052532448299423516),
    (2**63 - 1, 4095, 300, 0.6264433404704179),
]
"""Changing these breaks the promise that another worker goes on with the same tokens."""


def test_it_is_fixed_for_all_versions() -> None:
    found = [
        (seed, position, id, float(Noise(seed, position, id + 1).of(np.array([id]))[0]))
        for seed, position, id, _ in PINNED
    ]
    assert found == [(*case[:3], pytest.approx(case[3], rel=1e-14)) for case in PINNED]


def test_the_hash_is_splitmix64() -> None:
    """Its published first numbers from the state 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64")."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(np.uint64(1234567), np.arange(5)).tolist() == published


def test_no_variate_is_zero_or_infinite() -> None:
    ends = exponential(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert np.isfinite(ends).all()
    assert (ends > 0).all()


@pytest.mark.parametrize("position", range(20))
def test_what_is_said_of_a_block_is_so(position: int) -> None:
    """Its best noise is that of its best id, and every other id has less."""
    noise = Noise(7, position, 4 * BLOCK_IDS)
    every = noise.of(np.arange(4 * BLOCK_IDS)).reshape(4, BLOCK_IDS)
    assert (every.argmax(axis=1) + np.arange(4) * BLOCK_IDS).tolist() == noise.best_ids.tolist()
    assert every.max(axis=1).tolist() == noise.best.tolist()


def test_an_id_has_the_same_noise_in_every_vocabulary() -> None:
    ids = np.array([0, 255, 256, 299])
    assert Noise(3, 5, 300).of(ids).tolist() == Noise(3, 5, 262_144).of(ids).tolist()


def test_it_is_gumbel_noise_and_every_id_is_its_blocks_best_equally_often() -> None:
    """Kolmogorov and Smirnov's distance to the Gumbel distribution over 2,000 steps, of which a right noise exceeds
    the bound once in a million seeds; and neighbours, in ids and in positions, know nothing of one another."""
    noises = [Noise(11, position, 2 * BLOCK_IDS) for position in range(2000)]
    every = np.array([noise.of(np.arange(2 * BLOCK_IDS)) for noise in noises])
    values = np.sort(every.ravel())
    gumbel = np.exp(-np.exp(-values))
    distance = np.abs(gumbel - np.arange(len(values)) / len(values)).max()
    assert distance < 2.7 / len(values) ** 0.5
    uniform = np.exp(-np.exp(-every)) - 0.5
    for one, other in (
        (uniform[:, 1:], uniform[:, :-1]),
        (uniform[1:], uniform[:-1]),
        (uniform[:, 256:], uniform[:, :256]),
    ):
        assert abs(float((one * other).mean()) * 12) < 5 / one.size**0.5
    best = np.bincount([int(noise.best_ids[0]) for noise in noises], minlength=BLOCK_IDS)
    assert ((best - best.mean()) ** 2 / best.mean()).sum() < BLOCK_IDS + 6 * (2 * BLOCK_IDS) ** 0.5
