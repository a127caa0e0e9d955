"""Swarms for the fault stories: a bootstrap, workers with `bench.harness.chain_model`, and a gateway, all processes.

What a stream has to say is known beforehand, so every answer is compared with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.harness.chain_model import chain_text
from bench.harness.storm import Herd, wait_for_workers, wait_until_well
from bench.harness.swarm import Process, Swarm, swarm
from bench.harness.timed_client import Answered, ChatRequest, ask

MODEL = "chain"
SERVED_FILE = "served.log"
SEED = 20_240_229
"""Of every schedule here: a failure can be repeated."""


@dataclass(frozen=True)
class ChainSwarm:
    running: Swarm
    bootstrap: Process
    gateway: Process
    herd: Herd

    @property
    def url(self) -> str:
        return str(self.gateway.ready["http"])

    def worker(self, delay_ms: float, *arguments: str) -> Process:
        """One more, which is starting."""
        return self.running.echo_worker(self.bootstrap, *chain_arguments(delay_ms), *arguments)

    async def wait_listed(self, workers: int) -> None:
        await wait_for_workers(self.url, MODEL, workers)

    async def wait_well(self, workers: int) -> None:
        """A worker that was struck a moment ago is left alone for some seconds."""
        await wait_until_well(self.url, workers)


@contextmanager
def logged_swarm() -> Iterator[Swarm]:
    """On failure pytest shows what its processes have said."""
    with swarm() as running:
        try:
            yield running
        except BaseException:
            running.print_logs()
            raise
        finally:
            running.kill()


@contextmanager
def chain_swarm(workers: int, delay_ms: float) -> Iterator[ChainSwarm]:
    """All of it is ready, and the gateway lists the workers."""
    with logged_swarm() as running:
        bootstrap = running.bootstrap()
        herd = Herd(lambda: running.echo_worker(bootstrap, *chain_arguments(delay_ms)), workers, SERVED_FILE)
        made = ChainSwarm(running, bootstrap, running.gateway(bootstrap), herd)
        herd.wait_ready()
        asyncio.run(made.wait_listed(workers))
        yield made


def chain_arguments(delay_ms: float) -> tuple[str, ...]:
    return ("--chain", MODEL, "--delay-ms", str(delay_ms), "--served-file", SERVED_FILE)


def request(number: int, tokens: int, story: str = "") -> ChatRequest:
    """One of many, each with a prompt and a seed of its own."""
    return ChatRequest(f"{story}-{number}", MODEL, f"{story} stream {number}", tokens, seed=number + 1)


def requests(count: int, tokens: int, story: str = "") -> list[ChatRequest]:
    return [request(number, tokens, story) for number in range(count)]


def reference(asked: ChatRequest) -> str:
    return chain_text(asked.prompt, asked.seed, asked.tokens)


def faults_of(answers: Sequence[Answered]) -> list[str]:
    """What is wrong with these answers, each in a line: nothing should be."""
    return [
        f"{answer.request.request_id}: {problem}" for answer in answers if (problem := fault_of(answer)) is not None
    ]


def fault_of(answer: Answered) -> str | None:
    """What is wrong with this answer, None when nothing is."""
    expected = reference(answer.request)
    if not answer.is_complete:
        said = answer.error or "the connection was closed"
        return f"lost after {len(answer.text)} of {len(expected)} characters: status {answer.status}, {said}"
    if answer.text != expected:
        right = next(
            (n for n, (a, b) in enumerate(zip(answer.text, expected, strict=False)) if a != b), len(answer.text)
        )
        return f"wrong from character {right} of {len(expected)} on ({len(answer.text)} came)"
    if answer.finish_reason != "length":
        return f"finished with {answer.finish_reason}"
    if answer.usage is None or answer.usage["completion_tokens"] != answer.request.tokens:
        return f"usage {answer.usage} for {answer.request.tokens} tokens"
    return None


async def ask_all(url: str, asked: Sequence[ChatRequest]) -> list[Answered]:
    """All at once."""
    return list(await asyncio.gather(*(ask(url, one) for one in asked)))
