"""Workers of a besieged swarm that serve well until they are told to turn, all at once, and back when it is over."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.harness.siege import MODEL, Besieged, siege
from bench.harness.storm import wait_for_workers
from bench.harness.swarm import Process
from bench.harness.target import Target
from tests.faults.hostile_worker import TOKEN_S, WAYS_FILE

HONEST = 2
"""An eighth as fast as the others, which a gateway therefore likes better, until they turn."""
SEED = "14"


@dataclass(frozen=True)
class Betrayed:
    """Such a swarm. `attack` is what it has to withstand."""

    besieged: Besieged
    turncoats: Process

    async def attack(self, target: Target) -> None:
        self._turn()
        try:
            await asyncio.Event().wait()
        finally:
            self._turn()

    @property
    def mistreated(self) -> int:
        """Requests so far."""
        path = self.turncoats.file(WAYS_FILE)
        return len(path.read_text().split()) if path.exists() else 0

    def _turn(self) -> None:
        os.kill(self.turncoats.pid, signal.SIGUSR1)


@contextmanager
def betrayed(ways: Sequence[str]) -> Iterator[Betrayed]:
    """Beside two honest workers, one for each of these ways."""
    with siege(workers=HONEST, worker_arguments=("--delay-ms", str(8000 * TOKEN_S))) as besieged:
        arguments = [part for way in ways for part in ("--way", way)]
        turncoats = besieged.running.program(
            "tests.faults.hostile_worker",
            besieged.processes["bootstrap"],
            *("--model", MODEL, "--seed", SEED, "--turns", *arguments),
        )
        assert turncoats.ready
        asyncio.run(wait_for_workers(besieged.target.url, MODEL, HONEST + len(ways)))
        yield Betrayed(besieged, turncoats)
