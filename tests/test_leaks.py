"""What a test might leave behind is seen, and named; what is nobody's trouble is not."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.leaks import left, look


@contextmanager
def a_process() -> Iterator[str]:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(b"ready")
        child.stdin.flush()
        assert child.stdout.read(5) == b"ready"
        yield f"process {child.pid}: cat "
    finally:
        child.communicate()


@contextmanager
def a_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"a socket that listens on TCP port {taken.getsockname()[1]}"


@contextmanager
def a_path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{folder}/socket")
        yield f"a socket at {folder}/socket"


@contextmanager
def a_file() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"file {Path(folder).name} in the temp folder"


@pytest.mark.parametrize("leak", [a_process, a_port, a_path, a_file])
def test_what_is_left_is_named_until_it_is_gone(leak: Callable[[], AbstractContextManager[str]]) -> None:
    before = look()
    with leak() as named:
        assert left(before, grace_s=0) == [named]
    assert left(before, grace_s=0) == []


def test_what_is_nobodys_trouble() -> None:
    """A client's connection, and a process that has ended."""
    before = look()
    with socket.create_server(("127.0.0.1", 0)) as server:
        served = look()
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            assert look() > served
            assert left(served, grace_s=0) == []
    child = subprocess.Popen(["true"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.read() == b""
    assert left(before) == []
    child.stdout.close()
    child.wait()
