"""The two sides that are compared, how they are asked, and whether they answered as they should."""

from __future__ import annotations

from dataclasses import dataclass

from bench.harness import echo_models
from bench.harness.http_client import Answer, Stream
from bench.harness.swarm import Process, Swarm

NETWORK, PLAIN = "network", "plain"
CLIENT, HTTP, WORKER, DAEMONS = "client", "http", "worker", "p2pd"
"""Whose CPU time is counted: this process, the gateway or the plain server, the worker, and p2pd of both."""


class Wrong(Exception):
    """An answer was not what the echo says: there is nothing to measure."""


@dataclass(frozen=True)
class Settings:
    transport: str
    requests: int
    deltas: int
    seconds: float
    rounds: int
    concurrency: tuple[int, ...]


@dataclass(frozen=True)
class Sides:
    """What is compared: base URLs, and the processes whose CPU time counts."""

    urls: dict[str, str]
    processes: dict[str, dict[str, Process]]


def start(running: Swarm) -> Sides:
    bootstrap, plain = running.bootstrap(), running.plain_server()
    worker, gateway = running.echo_worker(bootstrap), running.gateway(bootstrap)
    assert worker.ready and bootstrap.ready
    return Sides(
        urls={NETWORK: gateway.ready["http"], PLAIN: plain.ready["http"]},
        processes={NETWORK: {HTTP: gateway, WORKER: worker}, PLAIN: {HTTP: plain}},
    )


def checked(answer: Answer, tokens: int) -> Stream:
    """The stream, whole and correct. Off the clock."""
    stream = Stream.parse(answer.body())
    if answer.status != 200 or not stream.is_complete or stream.text != echo_models.text_of(tokens):
        raise Wrong(f"status {answer.status}, {len(stream.text)} characters, ends with {answer.body()[-300:]!r}")
    return stream
