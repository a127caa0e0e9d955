"""The test of answers: what honest workers and cheats come to, and what a long past is worth."""

from __future__ import annotations

import random
from math import exp, inf, log

import pytest

from gateway.audits.evidence import (
    EXACT,
    LOG_FLAGGED,
    MAX_VOICES,
    QUANTIZED,
    ROUNDED,
    Calibration,
    Evidence,
    calibration_of,
)
from gateway.audits.looks import Look
from gateway.audits.trials import TRIAL_SHARE
from gateway.audits.verdicts import FULL_POSITIONS, LEAST_SHARE, MAX_CASES, Case, Cases, Voice, convicting
from p2pnet.score_messages import MAX_MARGIN

FAIR = Calibration(8.0, log(1 + 0.01 * (exp(4.0) - 1)))
"""Of a worker one in a hundred of whose tokens is wrong at full margin, the mean of L is just 1: the worst honest
one."""

EAST, WEST = frozenset({"198.51.100.0/24"}), frozenset({"203.0.113.0/24"})


def looks_until_flagged(
    evidence: Evidence, margin: float, calibration: Calibration = EXACT, positions: int = 20
) -> int:
    """How many more tokens with this mean margin it takes."""
    looked = 0
    while evidence.log_e < LOG_FLAGGED:
        evidence.note("auditor", calibration.log_likelihood(margin * positions, positions), positions)
        looked += positions
        assert looked < 100_000, "never flagged"
    return looked


@pytest.mark.parametrize(
    ("margin", "calibration", "aim"),
    [
        (0.4, EXACT, 20),  # a wrong seed, another prompt
        (0.3, QUANTIZED, 20),  # another model
        (0.03, EXACT, 100),
        (0.02, ROUNDED, 500),  # 4 bits in the place of 16, in a model that is sure of its words
    ],
)
def test_a_cheat_is_found_within_so_many_tokens(margin: float, calibration: Calibration, aim: int) -> None:
    assert looks_until_flagged(Evidence(), margin, calibration) <= aim


@pytest.mark.parametrize(
    ("calibration", "every", "answers"),
    [(EXACT, 1, 5), (ROUNDED, 1, 9), (QUANTIZED, 1, 10), (EXACT, 10, 45), (ROUNDED, 10, 105), (QUANTIZED, 10, 155)],
)
@pytest.mark.parametrize("tokens", [1, 250, 5_000])
def test_a_lie_that_an_answer_has_once_is_found_however_long_answers_are(
    calibration: Calibration, every: int, answers: int, tokens: int
) -> None:
    """Of its text, its end or its prompt's length, in each answer or in every tenth; all tokens are right."""
    evidence, looked = Evidence(), 0
    while evidence.log_e < LOG_FLAGGED:
        look = Look((0.0,) * tokens, end=0.0, text=MAX_MARGIN if looked % every == 0 else 0.0, prompt=0.0)
        once = look.log_likelihood_once(calibration)
        evidence.note("auditor", look.log_likelihood(calibration), look.positions, once)
        looked += 1
        assert looked <= answers, "not found"


@pytest.mark.parametrize(
    ("look", "positions", "nats", "once"),
    [
        (Look((0.25, 0.0)), 2, 2 - 0.02, 0.0),
        (Look((0.25, 0.0), end=0.5), 3, 6 - 0.03, 4 - 0.01),
        (Look((0.0,), end=0.0, text=0.5), 2, -0.02, 4 - 0.01),
        (Look((0.0,), text=0.125, prompt=0.5), 1, -0.01, 4 - 0.01),
        (Look((0.0,), end=0.25, text=0.5, prompt=0.5), 2, 2 - 0.02, 4 - 0.01),
        (Look((), end=0.0, text=0.0, prompt=0.0), 1, -0.01, -0.01),
    ],
)
def test_what_a_look_says_of_tokens_and_of_what_an_answer_has_once(
    look: Look, positions: int, nats: float, once: float
) -> None:
    assert look.positions == positions
    assert (look.log_likelihood(EXACT), look.log_likelihood_once(EXACT)) == pytest.approx((nats, once))
    assert look.doubt(EXACT) == pytest.approx(max(nats, once))


@pytest.mark.parametrize("honest_answers", [0, 100, 2_000, 100_000])
def test_a_long_honest_past_costs_a_later_fraud_two_nats_for_each_factor_of_e(honest_answers: int) -> None:
    evidence = Evidence()
    for _ in range(honest_answers):
        evidence.note("auditor", EXACT.log_likelihood(0.0, 20), 20)
    gain = EXACT.log_likelihood(0.03, 1)
    nats = LOG_FLAGGED + 2 * log(honest_answers + 2)
    assert looks_until_flagged(evidence, 0.03) <= nats / gain + 2 * 20


def test_the_worst_honest_worker_is_never_flagged() -> None:
    """Of a thousand whose calibration is just fair, each looked at after each of 200 answers."""
    rng = random.Random(7)
    highest = -inf
    for _ in range(1_000):
        evidence = Evidence()
        for answer in range(200):
            wrong = sum(rng.random() < 0.01 for _ in range(10))
            evidence.note(f"auditor {answer % 5}", FAIR.log_likelihood(0.5 * wrong, 10), 10)
            highest = max(highest, evidence.log_e)
    assert highest < LOG_FLAGGED, highest
    assert highest > log(10), "the story would say nothing if no worker came near"


def test_the_stakes_of_all_voices_sum_up_to_one() -> None:
    """Statements that say nothing leave each voice with what it has begun with."""
    evidence = Evidence()
    for number in range(500):
        evidence.note(f"auditor {number % MAX_VOICES}", 0.0, 1)
    assert sum(map(exp, evidence.voices.values())) == pytest.approx(1 - 1 / 501)


def test_what_is_discarded_counts_no_more_and_the_rest_stays() -> None:
    evidence = Evidence()
    evidence.note("liar", 100.0, 10)
    evidence.note("honest", 1.0, 10)
    assert evidence.accusers(LOG_FLAGGED) == ["liar"]
    evidence.discard("liar")
    assert evidence.accusers(LOG_FLAGGED) == [] and set(evidence.voices) == {"honest"}


def test_no_number_of_voices_fills_memory_and_the_loudest_stay() -> None:
    evidence = Evidence()
    evidence.note("accuser", 50.0, 10)
    for number in range(1_000):
        evidence.note(f"auditor {number}", -1.0, 10)
    assert len(evidence.voices) == MAX_VOICES and "accuser" in evidence.voices


def test_evidence_beyond_all_floats_stays_a_number() -> None:
    evidence = Evidence()
    for _ in range(1_000):
        evidence.note("auditor", 1e6, 10)
    assert evidence.log_e == pytest.approx(1e9)


@pytest.mark.parametrize(
    ("quantization", "dtype", "calibration"),
    [
        ("none", "float32", EXACT),
        ("none", "bfloat16", ROUNDED),
        ("none", "float16", ROUNDED),
        ("q4_k_m", "float32", QUANTIZED),
        ("none", "float8", QUANTIZED),
    ],
)
def test_what_was_not_measured_is_calibrated_with_most_care(
    quantization: str, dtype: str, calibration: Calibration
) -> None:
    assert calibration_of(quantization, dtype) == calibration


@pytest.mark.parametrize(
    ("accusers", "enough"),
    [
        ([], 0),
        ([Voice("a", EAST)], 0),
        ([Voice("a", EAST), Voice("b", EAST)], 0),
        ([Voice("a", EAST), Voice("b", EAST | WEST)], 0),
        ([Voice("a", EAST), Voice("b", WEST)], 2),
        ([Voice("a", EAST), Voice("b", EAST), Voice("c", WEST)], 2),
        ([Voice("a", EAST), Voice("b", EAST, is_trusted=True)], 1),
    ],
)
def test_two_of_different_addresses_convict_or_one_that_is_trusted(accusers: list[Voice], enough: int) -> None:
    assert len(convicting(accusers)) == enough


@pytest.mark.parametrize(
    ("positions", "log_e", "share"),
    [
        (0, 0.0, 1.0),
        (FULL_POSITIONS, 0.0, 1.0),
        (2 * FULL_POSITIONS, 0.0, 0.5),
        (1_000 * FULL_POSITIONS, 0.0, LEAST_SHARE),
        (1_000 * FULL_POSITIONS, 10.0, 1.0),
    ],
)
def test_all_first_answers_are_looked_at_and_later_few(positions: int, log_e: float, share: float) -> None:
    case = Case("worker", "digest")
    case.evidence.note("auditor", log_e, positions)
    assert case.share == share


@pytest.mark.parametrize("answer", [1, 40, 250, 2_000])
@pytest.mark.parametrize("prompt", [0, 30, 1_000, 60_000])
def test_at_the_standing_rate_looks_compute_a_hundredth_of_what_answers_do(prompt: int, answer: int) -> None:
    """With the trials of auditors, and though the prompt was computed before. Of a new or suspected one all are."""
    case, part = Case("worker", "digest"), answer / (prompt + answer)
    assert case.share_of(part) == 1.0
    case.evidence.note("auditor", 0.0, 1 << 40)
    assert 0 < case.share_of(part) * (prompt + answer) * (1 + TRIAL_SHARE) <= 0.01 * answer
    case.evidence.note("auditor", 10.0, 1)
    assert case.share_of(part) == 1.0


def test_cases_are_bounded_and_the_longest_not_looked_at_goes_first() -> None:
    cases = Cases()
    first, second = cases.of("first", "d"), cases.of("second", "d")
    for number in range(MAX_CASES - 1):
        assert cases.of("first", "d") is first
        cases.of(f"worker {number}", "d")
    assert cases.known("first", "d") is first and cases.known("second", "d") is not second
