"""Streams under way while their workers die: a seeded schedule of faults, its execution, and what the clients saw.

The workers are processes and really are killed. Prints nothing; `bench.faults` and the tests judge the outcome.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from bench.harness.http_client import Connection, models_request, workers_request
from bench.harness.served_log import being_served
from bench.harness.swarm import Process
from bench.harness.timed_client import Answered, ChatRequest, TimedStream

WAIT_TIMEOUT_S = 90.0
POLL_S = 0.05
AFTER_THE_STRIKE_S = 0.25
"""What a worker had sent before it was struck may still arrive for this long, and the silence begins after it."""


class Kind(StrEnum):
    """What is done to a worker, and when it is back."""

    KILL = "kill -9"
    GONE = "kill -9 with p2pd"
    STOP = "SIGSTOP"
    P2PD = "kill -9 of p2pd"


@dataclass(frozen=True)
class Fault:
    """`at_s` counts from the moment at which all streams are open."""

    at_s: float
    worker: int
    kind: Kind


@dataclass(frozen=True)
class Struck:
    """A fault that was done, at `at_s` of `time.perf_counter`, and the prompts that the worker was answering then."""

    fault: Fault
    at_s: float
    cut: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """A storm that is over."""

    answers: tuple[Answered, ...]
    strikes: tuple[Struck, ...]

    def lost(self) -> list[Answered]:
        """Those without an orderly end."""
        return [answer for answer in self.answers if not answer.is_complete]

    def wrong(self, reference: Callable[[ChatRequest], str]) -> list[Answered]:
        """Those that ended in order and say something else."""
        return [answer for answer in self.answers if answer.is_complete and answer.text != reference(answer.request)]

    def added_gaps(self, kind: Kind) -> list[float]:
        """For each stream that a fault of this kind cut: by how many seconds its silence around the fault was longer
        than its usual one."""
        by_prompt = {answer.request.prompt: answer for answer in self.answers}
        found = (
            added_gap(by_prompt[prompt], struck.at_s)
            for struck in self.strikes
            if struck.fault.kind is kind
            for prompt in struck.cut
            if prompt in by_prompt
        )
        return [gap for gap in found if gap is not None]


def schedule(rng: random.Random, workers: int, kinds: Sequence[Kind], spacing_s: float) -> tuple[Fault, ...]:
    """For each kind, each worker once, in random order, about `spacing_s` apart."""
    faults: list[Fault] = []
    at_s = 0.0
    for kind in kinds:
        for worker in rng.sample(range(workers), workers):
            at_s += spacing_s * rng.uniform(0.8, 1.2)
            faults.append(Fault(at_s, worker, kind))
    return tuple(faults)


def added_gap(answer: Answered, struck_s: float) -> float | None:
    """None when the stream was over, or nothing of it had come."""
    gaps = list(answer.gaps())
    around = [
        length_s
        for begin_s, length_s in gaps
        if begin_s < struck_s + AFTER_THE_STRIKE_S and begin_s + length_s > struck_s
    ]
    return max(around) - statistics.median(length_s for _, length_s in gaps) if around else None


class Herd:
    """The workers of one model. `start` makes one; each of them has a served log of that name in its folder, or none
    where `served_file` is None."""

    def __init__(self, start: Callable[[], Process], count: int, served_file: str | None) -> None:
        self._start = start
        self._served_file = served_file
        self.members = [start() for _ in range(count)]
        self._returns: list[asyncio.Task[None]] = []

    def wait_ready(self) -> None:
        assert all(member.ready for member in self.members)

    async def is_up(self, worker: int) -> bool:
        return self.members[worker].file("ready.json").exists()

    def strike(self, fault: Fault, away_s: float) -> Struck:
        """Do it now; after `away_s` the worker is started again, or goes on. A p2pd comes back by itself."""
        victim = self.members[fault.worker]
        act: Mapping[Kind, Callable[[], None]] = {
            Kind.KILL: victim.kill,
            Kind.GONE: victim.kill_with_daemon,
            Kind.STOP: victim.suspend,
            Kind.P2PD: victim.kill_daemon,
        }
        before = self._being_served(victim)
        at_s = time.perf_counter()
        act[fault.kind]()
        if fault.kind is Kind.P2PD:  # the worker lives, and notes at once that its streams have ended
            return Struck(fault, at_s, before)
        self._returns.append(asyncio.create_task(self._bring_back(fault, away_s)))
        return Struck(fault, at_s, self._being_served(victim))

    def _being_served(self, member: Process) -> frozenset[str]:
        return frozenset() if self._served_file is None else being_served(member.file(self._served_file))

    async def wait_returned(self) -> None:
        returns, self._returns = self._returns, []
        await asyncio.gather(*returns)

    async def _bring_back(self, fault: Fault, away_s: float) -> None:
        await asyncio.sleep(away_s)
        if fault.kind is Kind.STOP:
            self.members[fault.worker].go_on()
        else:
            self.members[fault.worker] = self._start()


async def storm(
    url: str,
    herd: Herd,
    requests: Sequence[ChatRequest],
    faults: Sequence[Fault],
    away_s: float,
    opening_s: float = 2.0,
) -> Outcome:
    """Open all streams within `opening_s`, do the faults, and wait for every stream's end. A fault waits until its
    worker is back from the one before."""
    loop = asyncio.get_running_loop()
    pause_s = opening_s / len(requests)
    streams = await asyncio.gather(*(_open(url, request, n * pause_s) for n, request in enumerate(requests)))
    answers = [loop.create_task(stream.finish()) for stream in streams]
    await asyncio.gather(*(stream.wait_begun() for stream in streams))
    began_s = loop.time()
    strikes = []
    for fault in faults:
        await asyncio.sleep(began_s + fault.at_s - loop.time())
        await until(partial(herd.is_up, fault.worker), "a worker is back")
        strikes.append(herd.strike(fault, away_s))
    outcome = Outcome(tuple(await asyncio.gather(*answers)), tuple(strikes))
    await herd.wait_returned()
    return outcome


async def _open(url: str, request: ChatRequest, delay_s: float) -> TimedStream:
    await asyncio.sleep(delay_s)
    return await TimedStream.open(url, request)


def enough_tokens(faults: Sequence[Fault], delay_s: float, spare_s: float = 5.0) -> int:
    """Of an answer that is still under way when the last fault comes."""
    return math.ceil((faults[-1].at_s + spare_s) / delay_s)


async def wait_for_workers(url: str, model: str, count: int) -> None:
    """Until the gateway lists so many."""

    async def is_so() -> bool:
        return await workers_listed(url, model) == count

    await until(is_so, f"{count} workers of {model} are listed")


async def wait_until_well(url: str, count: int) -> None:
    """Until the gateway has so many workers, and holds nothing against any of them any more."""

    async def is_so() -> bool:
        connection = await Connection.connect(url)
        workers = json.loads((await connection.ask(workers_request())).body())["workers"]
        connection.close()
        return [worker["state"] for worker in workers] == ["healthy"] * count

    await until(is_so, f"{count} workers are well")


async def workers_listed(url: str, model: str) -> int:
    connection = await Connection.connect(url)
    models = json.loads((await connection.ask(models_request())).body())["data"]
    connection.close()
    return sum(entry["workers"] for entry in models if entry["id"] == model)


async def until(is_so: Callable[[], Awaitable[bool]], what: str, timeout_s: float = WAIT_TIMEOUT_S) -> float:
    """Ask until it is so; returns how many seconds that took. Raises TimeoutError, which says `what`."""
    began_s = time.perf_counter()
    while not await is_so():
        if time.perf_counter() - began_s > timeout_s:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        await asyncio.sleep(POLL_S)
    return time.perf_counter() - began_s
