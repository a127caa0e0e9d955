"""Which models a gateway looks up, and when."""

from __future__ import annotations

from gateway.membership.look_ups import MAX_WANTED, RUNNING_S, WAITED_FOR_S, WANTED_S, LookUps


def test_a_model_that_is_waited_for_is_due_every_2_s_and_one_that_runs_every_30() -> None:
    look_ups = LookUps()
    look_ups.want("runs", 0.0)
    seen: dict[str, list[float]] = {"runs": [], "awaited": []}
    for tick in range(0, 4 * 61):
        now_s = tick / 4
        for model in look_ups.due(("awaited",), now_s):
            look_ups.note(model, now_s)
            seen[model].append(now_s)
    assert seen["runs"] == [0.0, RUNNING_S, 2 * RUNNING_S]
    assert seen["awaited"] == [number * WAITED_FOR_S for number in range(31)]


def test_what_is_waited_for_comes_first_and_then_what_was_looked_up_longest_ago() -> None:
    look_ups = LookUps()
    for number, model in enumerate(("a", "b", "c")):
        look_ups.want(model, 0.0)
        look_ups.note(model, 10.0 - number)
    assert look_ups.due(("b",), 100.0) == ["b", "c", "a"]


def test_a_model_that_nobody_asks_for_any_more_is_looked_up_no_more() -> None:
    look_ups = LookUps()
    look_ups.want("m", 0.0)
    assert look_ups.due((), WANTED_S) == ["m"]
    assert look_ups.due((), WANTED_S + 1) == []


def test_names_that_somebody_invents_push_out_one_another() -> None:
    look_ups = LookUps()
    for number in range(3 * MAX_WANTED):
        look_ups.want(f"{number}", 0.0)
    assert look_ups.due((), 1.0) == [f"{number}" for number in range(2 * MAX_WANTED, 3 * MAX_WANTED)]
