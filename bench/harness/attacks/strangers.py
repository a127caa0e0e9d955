"""A thousand connections of strangers, and twenty thousand streams on which they say nothing, at two workers."""

from __future__ import annotations

import asyncio

from bench.harness.attacks import crowds, half_open_streams
from bench.harness.target import Target


async def attack(target: Target, identities: int = 800, of_one: int = 100, streams: int = 10_000) -> None:
    """`identities` at the bootstrap, `of_one` connections of one identity and `streams` at each worker."""
    async with asyncio.TaskGroup() as group:
        group.create_task(crowds.attack(target, identities, of_one))
        group.create_task(half_open_streams.attack(target, streams))
