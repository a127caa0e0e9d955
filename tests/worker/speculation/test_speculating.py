"""Which guesses are checked, of which answer: windows follow what was right, and the better drafter has the word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from p2pnet.worker.engine.scheduler import Job
from p2pnet.worker.engine.speculation import Guessed
from p2pnet.worker.speculation.lookup import Lookup
from p2pnet.worker.speculation.speculating import RETRY_STEPS, Speculating
from p2pnet.worker.speculation.window import MAX_WINDOW, StepCost

SLOW_LINE = StepCost(fixed_s=0.4, token_s=0.002)
NO_LINE = StepCost(fixed_s=0.02, token_s=0.01)
CIRCLE = [1, 2, 3, 4] * 3


@dataclass
class Model:
    """A drafter that always says 7."""

    draft_s: float = 0.001
    asked: list[int] = field(default_factory=list)
    forgotten: list[Job] = field(default_factory=list)

    def drafts(self, wanted: Sequence[Guessed]) -> list[Sequence[int]]:
        self.asked += [size for _, size in wanted]
        return [[7] * size for _, size in wanted]

    def forget(self, job: Job) -> None:
        self.forgotten.append(job)


@dataclass
class Answer:
    """What a guess needs of a sequence."""

    job: Job


class Story:
    """One answer, and `others` beside it."""

    def __init__(self, cost: StepCost, ids: list[int], model: Model | None = None, others: int = 0) -> None:
        self.job = Job(list(ids), 1000)
        self.speculating = Speculating(lambda: cost, model)
        self._others = [self._step(Job([number], 1000), 0) for number in range(others)]

    def _step(self, job: Job, room: int) -> Guessed:
        return cast(Any, Answer(job)), room

    def drafts(self, room: int = 100) -> list[int]:
        return list(self.speculating.drafts([self._step(self.job, room), *self._others])[0])

    def say(self, *ids: int) -> None:
        self.job.ids += ids
        self.speculating.heard(self.job, ids)

    def turn_elsewhere(self) -> None:
        """What comes after 1, 2 is another token each time."""
        for number in range(40):
            self.drafts()
            self.say(100 + number, 1, 2)


def test_what_was_said_before_is_guessed() -> None:
    story = Story(SLOW_LINE, CIRCLE)
    drafts = story.drafts()
    assert drafts == (CIRCLE * 2)[: len(drafts)]
    assert 3 < len(drafts) < MAX_WINDOW


@pytest.mark.parametrize("room", [-1, 0, 2])
def test_never_more_than_there_is_room_for(room: int) -> None:
    assert len(Story(SLOW_LINE, CIRCLE).drafts(room)) == max(0, room)


def test_the_window_grows_while_guesses_are_right_and_closes_where_they_lose() -> None:
    story = Story(NO_LINE, CIRCLE)
    first = len(story.drafts())
    for _ in range(12):
        drafts = story.drafts()
        story.say(*drafts, CIRCLE[len(story.job.ids + drafts) % 4])
    grown = len(story.drafts())
    assert grown > first
    story.turn_elsewhere()
    assert story.drafts() == []


def test_what_is_not_checked_is_compared_all_the_same_and_opens_the_window_again() -> None:
    story = Story(NO_LINE, CIRCLE)
    story.turn_elsewhere()
    assert story.drafts() == []
    while not story.drafts() and len(story.job.ids) < 300:  # what would have been right counts
        story.say(*Lookup().drafts(story.job.ids, 1))
    assert story.drafts() != []


def test_each_answer_has_a_window_of_its_own() -> None:
    story = Story(StepCost(fixed_s=0.02, token_s=0.005), CIRCLE)
    story.turn_elsewhere()
    other = Job(list(CIRCLE), 1000)
    step = [story._step(story.job, 100), story._step(other, 100)]
    closed, opened = story.speculating.drafts(step)
    assert not closed
    assert opened


def test_others_in_the_pass_wait_for_guesses_so_fewer_are_made() -> None:
    assert len(Story(SLOW_LINE, CIRCLE, others=31).drafts()) < len(Story(SLOW_LINE, CIRCLE).drafts())


def test_a_model_has_the_word_where_nothing_is_found() -> None:
    model = Model()
    story = Story(SLOW_LINE, [1, 2, 3], model)
    drafts = story.drafts()
    assert drafts == [7] * model.asked[0]
    story.speculating.forget(story.job)
    assert model.forgotten == [story.job]


def test_what_is_found_is_free_so_a_model_has_to_be_better() -> None:
    assert Story(SLOW_LINE, CIRCLE, Model(draft_s=0.05)).drafts()[0] == CIRCLE[0]


def test_a_model_that_is_never_right_is_asked_seldom() -> None:
    model = Model()
    story = Story(NO_LINE, [1], model)
    for number in range(200):
        story.drafts()
        story.say(1000 + number)
    asked = len(model.asked)
    for number in range(10 * RETRY_STEPS):
        story.drafts()
        story.say(2000 + number)
    assert 5 <= len(model.asked) - asked <= 10
    assert model.asked[asked:] == [1] * (len(model.asked) - asked)
