"""Runs a long-running command: start, say it is ready, wait for a signal, stop cleanly.

Knows nothing of what is being run: it is given an asynchronous context manager.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from p2pnet.cli.interruption import StoppedEarly
from p2pnet.errors import UsageError
from p2pnet.network.multiaddrs import best_to_share
from p2pnet.peer import load_network


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a service is and where, once it serves: the content of the ready file."""

    peer_id: str
    addresses: tuple[str, ...]
    http: str | None = None
    metrics: str | None = None


Service = Callable[[], AbstractAsyncContextManager[Ready]]
Title = str | Callable[[], str]
"""What is said once it serves, or what makes it then."""
SignalActions = Mapping[signal.Signals, Callable[[], None]]


def run_service(
    service: Service,
    ready_file: Path | None,
    title: Title,
    hints: Sequence[str] = (),
    on_signals: SignalActions | None = None,
    console: Console | None = None,
    prepare: Callable[[], object] = load_network,
) -> None:
    """Run until SIGINT or SIGTERM. A second signal cuts the orderly stop short. Further signals do as `on_signals`
    says, from the beginning on. `console` is where it speaks: standard output, unless something is drawn there.

    `prepare` takes seconds, and Ctrl-C ends it at once. Raises StoppedEarly when it is stopped before it serves.
    """
    remove_ready_file(ready_file)  # a file of an earlier run must not be taken for this one's
    actions = on_signals or {}
    early = _kept(actions)
    prepare()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)  # half the cost of a small message
    try:
        stopped_by = runner.run(_run(service, ready_file, Words(title, hints, console or Console()), actions, early))
    except BaseException:
        runner.close()
        raise
    finally:
        remove_ready_file(ready_file)
    if stopped_by is not None:
        raise StoppedEarly(stopped_by)  # the runner is not closed: it would wait for a thread that loads a model
    runner.close()


def _kept(actions: SignalActions) -> list[signal.Signals]:
    """The signals that come before there is a loop to act on them: what the system does instead may be to kill us."""
    kept: list[signal.Signals] = []
    for number in actions:
        signal.signal(number, lambda number, _: kept.append(signal.Signals(number)))
    return kept


@dataclass(frozen=True)
class Words:
    """What is said once it serves, and where."""

    title: Title
    hints: Sequence[str]
    console: Console

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


async def _run(
    service: Service,
    ready_file: Path | None,
    words: Words,
    on_signals: SignalActions,
    early: Sequence[signal.Signals],
) -> signal.Signals | None:
    """Returns the signal that stopped it where that was before it served."""
    serves = asyncio.Event()
    stopped_by: list[signal.Signals] = []
    task = asyncio.create_task(_serve(service, ready_file, words, serves))
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if not serves.is_set() and not stopped_by:
            words.say("Stopping.")
            stopped_by.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    for number, action in on_signals.items():
        loop.add_signal_handler(number, action)  # never removed: what the system does instead may be to kill us
    for number in early:
        on_signals[number]()
    try:
        await task
    except asyncio.CancelledError:
        pass
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)  # what is left is only waited for: a further Ctrl-C may end that
    return stopped_by[0] if stopped_by else None


async def _serve(service: Service, ready_file: Path | None, words: Words, serves: asyncio.Event) -> None:
    async with service() as ready:
        serves.set()
        try:
            _say_ready(ready, words)
            if ready_file is not None:
                write_ready_file(ready_file, ready)
            await asyncio.Event().wait()
        finally:
            words.say("Stopping.")
            remove_ready_file(ready_file)  # before the drain: whoever looks must not come any more


def _say_ready(ready: Ready, words: Words) -> None:
    words.say(words.title if isinstance(words.title, str) else words.title())
    words.say(f"Peer id: {ready.peer_id}")
    if ready.http is not None:
        words.say(f"HTTP:    {ready.http}")
    if (address := best_to_share(ready.addresses)) is not None:
        words.say(f"Others join with:\n  --initial-peers {address}")
    for hint in words.hints:
        words.say(hint.format(http=ready.http))
    words.say("Ctrl-C stops it.")


def remove_ready_file(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def write_ready_file(path: Path, ready: Ready) -> None:
    """All of it or nothing: whoever waits for the file reads it at once."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(msgspec.json.encode(ready))
        partial.replace(path)
    except OSError as error:
        raise UsageError(
            f"The ready file {path} cannot be written: {error.strerror}.", "Name another one with --ready-file."
        ) from error
