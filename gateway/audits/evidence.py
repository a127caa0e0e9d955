"""Weighs what auditors say of one worker's answers: a sequential test that may be looked at after every answer. Pure.

For an answer of n positions whose margins sum up to s it has L = exp(weight * s - cost * n). The calibration is such
that of honest answers the mean of L is at most 1, whatever came before. So a product of Ls is a supermartingale, and
the chance that it ever reaches 1/a is at most a (Ville 1939; Shafer 2021, "Testing by betting").

One product over all answers would let a long honest past pay for a later fraud, since each honest answer lowers it. To
begin anew whenever it is low (CUSUM) would lose the bound. So there is a product for each moment at which a fraud may
have begun, and what counts is their sum, the one from the k-th statement on with the share 1/(k(k + 1)) of a stake of
1. That has the recursion of the Shiryaev-Roberts e-detector (Shin, Ramdas, Rinaldo 2022, arXiv 2203.03532), whose
shares are all 1: with those only the time between false alarms is bounded. As these sum up to 1, the sum is one
supermartingale that began with 1, and the bound is on the chance of ever accusing. A fraud that begins after k
statements has to be seen for 2 ln k nats longer: 15 after two thousand.

A long answer costs an honest worker nothing and a cheat much: its many right tokens outweigh the one lie that an answer
has of its end or its text. So the stake is split between two products: of all tokens, and of what an answer has once.

Each auditor is a voice with products of its own, from the one stake: all honest voices together accuse an honest worker
once in a million, however many they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, log, log1p

LOG_FLAGGED = log(1e6)
"""The evidence of one voice, in nats, that convicts: honest workers come there once in a million."""

LOG_SUSPECTED = log(1e2)
"""From here on all answers are looked at, by two auditors each: one honest worker in a hundred costs that much more."""

ONCE_SHARE = 0.1
"""Of the stake, for what an answer has once: it is seen 2.3 nats later than with a whole stake, which is one or two
answers more, and what tokens say 0.1 nats later."""

MAX_VOICES = 16
"""Auditors remembered for one worker: the one with the least evidence makes room, which can only help the worker."""


@dataclass(frozen=True)
class Calibration:
    """How much a margin says, in nats for each logit, and what each position is expected to say without a fraud. Those
    below were measured with `python -m bench.audits`: docs/audits.md has the tables."""

    weight: float
    cost: float

    def log_likelihood(self, margins: float, positions: int) -> float:
        """log L of an answer. `margins` is their sum, in logits."""
        return self.weight * margins - self.cost * positions


EXACT = Calibration(8.0, 0.01)
"""float32: other threads, batches and libraries move the last digits of a logit, which decide nearly nothing. The cost
allows for a wrong token at full margin in 5,000."""

ROUNDED = Calibration(4.0, 0.05)
"""bfloat16 and float16: a logit is off by some hundredths. Honest answers need a cost of 0.023 at most."""

QUANTIZED = Calibration(4.0, 0.1)
"""Weights of few bits, whose kernels differ by a tenth of a logit (docs/architecture.md, Determinism). Where kernels
are mixed, honest answers need a cost of 0.06 at most. A weight of 8 would need 0.14: one large margin would say too
much."""


def calibration_of(quantization: str, dtype: str) -> Calibration:
    """For a model as its worker announces it. What nothing was measured of gets the most careful one."""
    if quantization not in ("", "none"):
        return QUANTIZED
    return {"float32": EXACT, "bfloat16": ROUNDED, "float16": ROUNDED}.get(dtype, QUANTIZED)


class Evidence:
    """What has been said of one worker and one digest so far."""

    def __init__(self) -> None:
        self._statements = 0
        self._products: dict[str, tuple[float, float]] = {}
        """Of each auditor, in nats: of tokens, and of what an answer has once."""
        self.positions = 0
        """Those that were looked at, tokens and ends."""

    @property
    def statements(self) -> int:
        return self._statements

    @property
    def log_e(self) -> float:
        """Of the voice that says most, in nats; -inf before the first."""
        return max(self.voices.values(), default=-inf)

    @property
    def voices(self) -> Mapping[str, float]:
        """The evidence of each auditor, in nats."""
        return {voice: _log_sum(*products) for voice, products in self._products.items()}

    def note(self, voice: str, log_likelihood: float, positions: int, once: float = 0.0) -> None:
        """An auditor has looked at one answer, which was chosen for that before anything was known of it: of answers
        that are looked at because they look bad, the mean of L is more than 1. `once` is the log L of what it has
        once."""
        self._statements += 1
        self.positions += positions
        begins = -log(self._statements) - log1p(self._statements)
        tokens, of_once = self._products.pop(voice, (-inf, -inf))
        if len(self._products) >= MAX_VOICES:
            voices = self.voices
            self._products.pop(min(voices, key=lambda name: voices[name]))
        self._products[voice] = (
            _log_sum(tokens, begins + log1p(-ONCE_SHARE)) + log_likelihood,
            _log_sum(of_once, begins + log(ONCE_SHARE)) + once,
        )

    def discard(self, voice: str) -> None:
        """What it has said counts no more."""
        self._products.pop(voice, None)

    def accusers(self, log_threshold: float) -> list[str]:
        """The voices with so much evidence, most first."""
        voices = self.voices
        return sorted((voice for voice in voices if voices[voice] >= log_threshold), key=lambda voice: -voices[voice])


def _log_sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b)), without overflow; `b` is finite."""
    low, high = min(a, b), max(a, b)
    return high + log1p(exp(low - high))
