"""How a service ends that is stopped: before it serves, while it serves, and twice. Each signal is to this process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from io import StringIO

import pytest
from rich.console import Console

from p2pnet.cli.interruption import StoppedEarly
from p2pnet.cli.lifecycle import Ready, run_service

READY = Ready("12D3KooW", ())


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def ran(service: Callable[[], AbstractAsyncContextManager[Ready]], prepare: Callable[[], object] = dict) -> str:
    """What it said, up to its end."""
    said = StringIO()
    try:
        run_service(service, None, "It is ready.", console=Console(file=said, width=80), prepare=prepare)
    except StoppedEarly as early:
        return f"{said.getvalue()}{early.code}"
    return said.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stopped_before_it_serves_says_so_and_has_the_signals_status(number: signal.Signals) -> None:
    closed = []

    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        try:
            interrupt(number)
            await asyncio.Event().wait()
            yield READY
        finally:
            closed.append(True)

    assert ran(service) == f"Stopping.\n{128 + number}"
    assert closed == [True]


def test_a_thread_that_loads_something_is_not_waited_for() -> None:
    go_on = threading.Event()

    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        asyncio.get_running_loop().call_soon(interrupt)
        await asyncio.to_thread(go_on.wait)
        yield READY

    assert ran(service) == "Stopping.\n130"
    go_on.set()


def test_what_serves_is_stopped_in_order() -> None:
    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        asyncio.get_running_loop().call_soon(interrupt)
        yield READY

    said = ran(service)
    assert said.startswith("It is ready.\n") and said.endswith("Ctrl-C stops it.\nStopping.\n")


def test_a_second_signal_cuts_the_orderly_stop_short() -> None:
    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        asyncio.get_running_loop().call_soon(interrupt)
        try:
            yield READY
        finally:
            interrupt()
            await asyncio.Event().wait()

    assert ran(service).endswith("Stopping.\n")


def test_what_comes_before_there_is_a_loop_is_acted_on_in_it() -> None:
    acted = []

    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        asyncio.get_running_loop().call_soon(interrupt)
        yield READY

    before = signal.getsignal(signal.SIGUSR1)
    try:
        run_service(
            service,
            None,
            "It is ready.",
            on_signals={signal.SIGUSR1: lambda: acted.append("usr1")},
            console=Console(file=StringIO()),
            prepare=lambda: interrupt(signal.SIGUSR1),
        )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert acted == ["usr1"]


def test_ctrl_c_while_something_is_imported_ends_it_at_once() -> None:
    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        raise AssertionError("it was begun")
        yield READY

    with pytest.raises(KeyboardInterrupt):
        ran(service, prepare=interrupt)
