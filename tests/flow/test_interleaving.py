"""Several generators as one: nothing lost, in order, the first error ends all, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from p2pnet.flow.interleaving import interleaved


class Broken(Exception):
    pass


class Source:
    """Gives so many numbers, -1 for no end, and then an error if there is one."""

    def __init__(self, name: str, count: int, error: Exception | None = None) -> None:
        self.name = name
        self.given = 0
        self.is_closed = False
        self._count = count
        self._error = error

    async def items(self) -> AsyncGenerator[tuple[str, int], None]:
        try:
            while self.given != self._count:
                await asyncio.sleep(0)
                self.given += 1
                yield self.name, self.given
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True


def generators(sources: Sequence[Source]) -> list[AsyncGenerator[tuple[str, int], None]]:
    return [source.items() for source in sources]


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncGenerator[None, None]:
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield
    gc.collect(1)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert complaints == []


@pytest.mark.parametrize("counts", [[], [0], [5], [3, 3], [0, 10, 1], [1] * 16, [50, 0, 0, 7]])
async def test_all_items_of_each_in_order(counts: list[int]) -> None:
    sources = [Source(str(index), count) for index, count in enumerate(counts)]
    found = [item async for item in interleaved(generators(sources))]
    for source, count in zip(sources, counts, strict=True):
        assert [number for name, number in found if name == source.name] == list(range(1, count + 1))
    assert all(source.is_closed for source in sources if source.given)


async def test_items_come_as_they_are_made() -> None:
    sources = [Source("a", 100), Source("b", 100)]
    async with aclosing(interleaved(generators(sources))) as items:
        first = {(await anext(items))[0] for _ in range(6)}
        assert first == {"a", "b"}
        assert sum(source.given for source in sources) < 20, "who is not read from waits"


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("others", [0, 1, 3])
async def test_the_first_error_ends_it_and_what_came_before_is_there(count: int, others: int) -> None:
    """The others have no end."""
    sources = [Source("bad", count, Broken()), *(Source(str(index), -1) for index in range(others))]
    found = []
    with pytest.raises(Broken):
        async for item in interleaved(generators(sources)):
            found.append(item)
            assert len(found) < 1000
    assert [number for name, number in found if name == "bad"] == list(range(1, count + 1))
    assert all(source.is_closed for source in sources if source.given)


async def test_two_errors() -> None:
    sources = [Source("a", 2, Broken()), Source("b", 2, Broken()), Source("c", 2, Broken())]
    with pytest.raises(Broken):
        async for _ in interleaved(generators(sources)):
            pass


@pytest.mark.parametrize("others", [0, 1, 3])
@pytest.mark.parametrize("taken", [1, 10])
async def test_closing_it_closes_all(others: int, taken: int) -> None:
    sources = [Source(str(index), -1) for index in range(others + 1)]
    items = interleaved(generators(sources))
    for _ in range(taken):
        await anext(items)
    await items.aclose()
    assert all(source.is_closed for source in sources if source.given)


@pytest.mark.parametrize("others", [0, 1, 3])
async def test_a_reader_that_is_cancelled_while_it_waits(others: int) -> None:
    begun = asyncio.Event()

    async def silent() -> AsyncGenerator[int, None]:
        begun.set()
        await asyncio.Event().wait()
        yield 1

    async def read() -> None:
        async with aclosing(interleaved([silent() for _ in range(others + 1)])) as items:
            async for _ in items:
                pass

    reader = asyncio.create_task(read())
    await begun.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
