"""Several generations as one: what a client of several prompts sees, and what becomes of the rest when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.interface import GenerationEvent, Routed, Waiting
from gateway.surfaces.openai.prompts import side_by_side
from p2pnet.errors import Busy
from p2pnet.messages import Accepted, Finished, TextDelta, Usage

ONE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


Step = GenerationEvent | Exception | asyncio.Event


class Sources:
    """Generations that play their steps, and whether they were closed."""

    def __init__(self, *scripts: list[Step]) -> None:
        self._scripts = scripts
        self.running = 0

    def all(self) -> list[AsyncGenerator[GenerationEvent, None]]:
        return [self._play(script) for script in self._scripts]

    async def _play(self, script: list[Step]) -> AsyncGenerator[GenerationEvent, None]:
        self.running += 1
        try:
            for step in script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.running -= 1


async def test_choices_are_numbered_prompt_by_prompt_and_usage_is_summed() -> None:
    sources = Sources(
        [
            *(Waiting(1), Routed("a", 1, 0), Accepted(3, ONE), TextDelta("x", choice=1)),
            Finished("stop", Usage(3, 5, 1), other_reasons=("length",)),
        ],
        [
            *(Waiting(2), Routed("b", 1, 0), Accepted(4, ONE), TextDelta("y")),
            Finished("length", Usage(4, 6, 2), other_reasons=("stop",)),
        ],
    )
    events = [event async for event in side_by_side(sources.all(), 2)]
    assert sum(isinstance(event, Routed) for event in events) == 1
    assert sum(isinstance(event, Accepted) for event in events) == 1
    assert {(event.text, event.choice) for event in events if isinstance(event, TextDelta)} == {("x", 1), ("y", 2)}
    assert events[-1] == Finished("stop", Usage(7, 11, 3), other_reasons=("length", "length", "stop"))


async def test_workers_with_different_digests_are_none() -> None:
    scripts: list[list[Step]] = [[Accepted(1, digest), Finished("stop", Usage(1, 0))] for digest in (ONE, OTHER)]
    events = [event async for event in side_by_side(Sources(*scripts).all(), 1)]
    assert [event.digest for event in events if isinstance(event, Accepted)] == [ONE, None]


async def test_it_is_not_finished_when_one_just_ends() -> None:
    sources = Sources([Accepted(1), Finished("stop", Usage(1, 0))], [Accepted(1)])
    assert not [event async for event in side_by_side(sources.all(), 1) if isinstance(event, Finished)]


async def test_the_first_error_ends_all() -> None:
    sources = Sources([Accepted(1), asyncio.Event()], [Busy("full")])
    with pytest.raises(Busy):
        [event async for event in side_by_side(sources.all(), 1)]
    assert sources.running == 0


async def test_closing_it_closes_all() -> None:
    sources = Sources([Accepted(1), asyncio.Event()], [asyncio.Event()])
    events = side_by_side(sources.all(), 1)
    assert isinstance(await anext(events), Accepted)
    assert sources.running == 2
    await events.aclose()
    assert sources.running == 0
