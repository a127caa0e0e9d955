"""A bootstrap, two workers with the bundled model and a gateway, as processes: for stories that hurt nobody.

Started once for all files that use it. A file's own workers may join, and are stopped when the file is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.e2e.asking import models
from tests.processes import Process, Start, processes, wait_until


@dataclass(frozen=True)
class TinySwarm:
    """The network, and what starts more of it."""

    start: Start
    bootstrap: Process
    workers: tuple[Process, Process]
    gateway: Process

    @property
    def address(self) -> str:
        return self.bootstrap.ready.address

    @property
    def url(self) -> str:
        assert self.gateway.ready.http is not None
        return self.gateway.ready.http

    @contextmanager
    def worker(self, *arguments: str, name: str) -> Iterator[Process]:
        """One more worker, which is starting, and has left the network afterwards."""
        worker = self.start.worker(*arguments, peer=self.address, name=name)
        yield worker
        assert worker.stop() == 0
        assert worker.leftovers() == []


@contextmanager
def tiny_swarm_of_processes() -> Iterator[TinySwarm]:
    with processes("swarm") as start:
        bootstrap = start.bootstrap()
        address = bootstrap.ready.address
        arguments = ("--model", "tiny", "--metrics-port", "0")
        one, other = (start.worker(*arguments, peer=address, name=f"tiny{number}") for number in (1, 2))
        gateway = start.gateway(peer=address)
        for process in (one, other, gateway):
            process.wait_ready()
        swarm = TinySwarm(start, bootstrap, (one, other), gateway)
        wait_until(lambda: models(swarm.url) == ["tiny"], "the gateway lists tiny")
        yield swarm
