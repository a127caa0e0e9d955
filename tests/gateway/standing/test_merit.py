"""Merit: as a table, and what invented identities gain, whatever they sign, as a property."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.queueing.fair_queue import PRIORITY_FACTOR, share_of
from gateway.standing.merit import (
    CONNECTIVITY_DECAY,
    LEAST_MERIT,
    LEAST_TOTAL_TOKENS,
    MAX_STANDING,
    SHARE_FACTOR,
    SHARE_PER_MERIT,
    TRANSITIVITY_DECAY,
    merits,
    priority_of,
)
from tests.depth import examples

ON = 1 - TRANSITIVITY_DECAY
BEHIND_ONE = 1 - CONNECTIVITY_DECAY
ALL = LEAST_TOTAL_TOKENS

Said = dict[str, dict[str, float]]


@pytest.mark.parametrize(
    ("received", "said", "expected"),
    [
        ({}, {}, {}),
        ({"a": ALL}, {}, {"a": 1.0}),
        ({"a": 3 * ALL, "b": ALL}, {}, {"a": 0.75, "b": 0.25}),
        ({"a": ALL / 100}, {}, {"a": 0.01}),
        ({"a": ALL, "b": 0.0, "c": -0.0}, {}, {"a": 1.0}),
        ({"a": ALL}, {"a": {"b": 0.1 * ALL}}, {"a": 1.0, "b": 0.1 * ON * BEHIND_ONE}),
        ({"a": ALL}, {"a": {"b": 100 * ALL}}, {"a": 1.0, "b": ON * BEHIND_ONE}),
        ({"a": ALL}, {"a": {"b": 9 * ALL, "c": ALL}}, {"a": 1.0, "b": 0.9 * ON / 2, "c": 0.1 * ON / 2}),
        ({"a": ALL, "b": ALL}, {"a": {"c": ALL}, "b": {"c": ALL}}, {"a": 0.5, "b": 0.5, "c": ON}),
        ({"a": ALL, "b": ALL}, {"a": {"b": ALL}}, {"a": 0.5, "b": 0.5 + ON / 2}),
        ({"a": ALL}, {"a": {"b": ALL}, "b": {"c": ALL}}, {"a": 1.0, "b": ON * BEHIND_ONE}),
        ({"a": ALL}, {"a": {"a": 9 * ALL}}, {"a": 1.0}),
        ({"a": ALL}, {"x": {"y": 10.0**9}, "y": {"x": 10.0**9}}, {"a": 1.0}),
    ],
    ids=[
        "nothing",
        "one giver",
        "in proportion",
        "a little is little while there is not much",
        "what is no gift",
        "another's word counts less, and less still behind one",
        "and for no more than the other has given",
        "however many it names",
        "but not behind two",
        "on top of what was given here",
        "over one and no more",
        "nobody's own",
        "two that only praise one another",
    ],
)
def test_merit(received: dict[str, float], said: Said, expected: dict[str, float]) -> None:
    assert merits(received, said) == pytest.approx(expected)


HONEST, INVENTED = [f"honest-{n}" for n in range(4)], [f"invented-{n}" for n in range(6)]
amounts = st.floats(min_value=0.1, max_value=1e9)
sums = st.dictionaries(st.sampled_from([*HONEST, *INVENTED]), amounts)


@settings(max_examples=examples(200))
@given(sums, st.dictionaries(st.sampled_from(HONEST), sums), st.dictionaries(st.sampled_from(INVENTED), sums))
def test_whatever_invented_identities_sign_gains_them_half_of_what_they_gave(
    received: dict[str, float], earned: Said, claimed: Said
) -> None:
    without, with_claims = merits(received, earned), merits(received, {**earned, **claimed})
    total = max(LEAST_TOTAL_TOKENS, sum(received.values()))
    gave = sum(received.get(peer, 0.0) for peer in INVENTED) / total
    heard = 0.0  # what honest peers say of them, which nobody has to take back when he is praised besides
    for peer, of_others in earned.items():
        others = {name: tokens for name, tokens in of_others.items() if name != peer}
        believed = min(1.0, received.get(peer, 0.0) / sum(others.values())) if others else 0.0
        heard += ON * believed * sum(others.get(name, 0.0) for name in INVENTED) / total
    assert sum(with_claims.get(peer, 0.0) for peer in INVENTED) <= (1 + ON) * gave + heard + 1e-9
    for peer in HONEST:  # praise is free, and cannot be used against whoever gets it
        assert with_claims.get(peer, 0.0) >= without.get(peer, 0.0) - 1e-9


@pytest.mark.parametrize(
    ("merit", "priority"),
    [(0.0, 0), (0.0039, 0), (LEAST_MERIT, 1), (0.0159, 1), (0.016, 2), (0.064, 2), (1.0, 2)],
)
def test_priority_of_a_merit(merit: float, priority: int) -> None:
    assert priority_of(merit) == priority


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=50))
def test_shares_are_no_more_than_merit(parts: list[float]) -> None:
    shares = sum(share_of(priority_of(merit)) / share_of(0) for merit in parts if priority_of(merit))
    assert shares <= sum(parts) * SHARE_PER_MERIT * (1 + 1e-6)


def test_what_standing_adds_is_what_the_queue_gives_for_it() -> None:
    assert SHARE_FACTOR == PRIORITY_FACTOR
    assert share_of(MAX_STANDING) == 16 * share_of(0)
