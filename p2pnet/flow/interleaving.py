"""Merges several generators into one, whose items come as they are made. Knows nothing of what flows through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Over:
    """A source has ended."""

    error: Exception | None = None


def interleaved(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """All items of all sources, each source's in order. The first error ends it; closing it closes all sources. Of one
    source it is that source: nothing is passed on that need not be."""
    return sources[0] if len(sources) == 1 else _interleaved(sources)


async def _interleaved(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    waiting: asyncio.Queue[T | _Over] = asyncio.Queue(maxsize=len(sources))

    async def pass_on(source: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(source) as items:
                async for item in items:
                    await waiting.put(item)
        except Exception as error:  # whoever reads gets it
            await waiting.put(_Over(error))
        else:
            await waiting.put(_Over())

    tasks = [asyncio.create_task(pass_on(source)) for source in sources]
    left = len(tasks)
    try:
        while left:
            following = await waiting.get()
            if not isinstance(following, _Over):
                yield following
            elif following.error is not None:
                raise following.error
            else:
                left -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
