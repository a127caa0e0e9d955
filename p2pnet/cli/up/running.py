"""Runs commands of ours as processes, waits until they serve, and ends all of them, whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from p2pnet.cli.lifecycle import Ready
from p2pnet.cli.up.plan import Command
from p2pnet.errors import UsageError

STOP_S = 45.0
"""A worker lets running requests finish for 30 s, and takes some more to say goodbye."""

HURRIED_STOP_S = 5.0
"""After the second signal: to end p2pd, and for a model that is being loaded."""

BETWEEN_SIGNALS_S = 0.3
"""Two that come at the same time are one to a process."""

LOOK_EVERY_S = 0.05
"""How often a ready file is looked for: commands take a second and more to start."""

GIVEN_BY_WORDS = ("P2PNET_IDENTITY", "P2PNET_INITIAL_PEERS", "P2PNET_INVITE", "P2PNET_SWARM")
"""Variables that no part may have: an identity can be one's alone, and each part is told its network by flags, which
may say it otherwise: a swarm's name for the invitation into it."""

OURS = (sys.executable, "-m", "p2pnet")

LAST_LINES = 15
"""Of the log of a command that has ended: what it says to its user is at the end."""

_decode_ready = msgspec.json.Decoder(Ready).decode


class Running:
    """Commands that run. Made by `running`, which ends them."""

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        program: Sequence[str] = OURS,
        environment: Mapping[str, str] = os.environ,
        stop_s: float = STOP_S,
    ) -> None:
        """`program` runs a command's words; `environment` is what we were started with."""
        self._folder = folder
        self._say = say
        self._program = program
        self._environment = {name: value for name, value in environment.items() if name not in GIVEN_BY_WORDS}
        self._stop_s = stop_s
        self._children: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, command: Command) -> Ready:
        """Say the command, run it, and return what it is and where, once it serves. Raises UsageError, with its own
        last words, when it ends instead."""
        self._say(f"$ {command}")
        ready_file = self._folder / f"{command.name}.json"
        # Of its own session: Ctrl-C and a closed terminal reach this process, which ends the others in order.
        with self._log(command.name).open("wb") as log:
            child = await asyncio.create_subprocess_exec(
                *(*self._program, *command.words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environment, "P2PNET_READY_FILE": str(ready_file), "P2PNET_NO_PANEL": "1"},
                start_new_session=True,
            )
        self._children[command.name] = child
        while not ready_file.exists():
            if child.returncode is not None:
                raise self._ended(command.name)
            await asyncio.sleep(LOOK_EVERY_S)
        return _decode_ready(ready_file.read_bytes())

    async def wait(self) -> None:
        """Until one of them ends, which none should. Raises UsageError then."""
        waiting = {asyncio.create_task(child.wait()): name for name, child in self._children.items()}
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            raise self._ended(waiting[done.pop()])
        finally:
            for task in waiting:
                task.cancel()

    async def stop(self, hurry: asyncio.Event) -> None:
        """End all, one after the other, the last one first: a worker says goodbye to a gateway that is still there, and
        both through the bootstrap. `hurry` cuts short what they still do; what does not leave is killed."""
        for child in reversed(self._children.values()):
            await _end(child, hurry, self._stop_s)

    def _ended(self, name: str) -> UsageError:
        words = "\n".join(self._log(name).read_text(errors="replace").strip().splitlines()[-LAST_LINES:])
        return UsageError(
            f"The {name} has ended. Its last words:\n{words}",
            "Do what it says, or run its command, which is printed above, by itself.",
        )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@asynccontextmanager
async def running(say: Callable[[str], None], hurry: asyncio.Event) -> AsyncIterator[Running]:
    """What is started inside is ended on leaving, and its logs are gone."""
    with tempfile.TemporaryDirectory(prefix="p2pnet-up-") as folder:
        made = Running(Path(folder), say)
        try:
            yield made
        finally:
            await made.stop(hurry)


async def _end(child: asyncio.subprocess.Process, hurry: asyncio.Event, stop_s: float) -> None:
    gone = asyncio.create_task(child.wait())
    hurried = asyncio.create_task(hurry.wait())
    _signal(child, signal.SIGTERM)
    await asyncio.wait({gone, hurried}, timeout=stop_s, return_when=asyncio.FIRST_COMPLETED)
    if hurried.done():
        await asyncio.wait({gone}, timeout=BETWEEN_SIGNALS_S)
        _signal(child, signal.SIGTERM)  # the second one cuts an orderly stop short
        await asyncio.wait({gone}, timeout=HURRIED_STOP_S)
    _signal(child, signal.SIGKILL)
    hurried.cancel()
    await gone


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if child.returncode is None:
        child.send_signal(number)
