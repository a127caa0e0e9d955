"""What a test may not leave behind: processes, sockets that others can reach, network namespaces, files.

Looked at before and after each test, which takes a fraction of a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NAMESPACES = Path("/run/netns")
"""Of the whole machine: the names of ours hold our process id."""
PYTHONS_OWN = "multiprocessing.resource_tracker"
"""Started with the first of multiprocessing's locks, it lives as long as we do."""
GRACE_S = 5.0
"""Who is on the way out is given the time to go."""
POLL_S = 0.02
LISTENING = "0A"
ZOMBIE = "Z"

Found = frozenset[str]


def look() -> Found:
    """What there is at this moment."""
    return frozenset(
        (
            *(f"process {pid}" for pid in _children()),
            *(f"socket {inode}" for inode in _sockets()),
            *(f"namespace {name}" for name in _names(NAMESPACES) if str(os.getpid()) in name),
            *(f"file {name} in the temp folder" for name in _names(Path(tempfile.gettempdir()))),
            *(f"file {name} in the working folder" for name in _names(Path()) if not _is_of_a_tool(name)),
        )
    )


def left(before: Found, grace_s: float = GRACE_S) -> list[str]:
    """What has come since and stays, in words."""
    deadline_s = time.monotonic() + grace_s
    while found := sorted(told for one in look() - before if (told := _in_words(one))):
        if time.monotonic() > deadline_s:
            return found
        time.sleep(POLL_S)
    return []


def _children() -> Iterator[str]:
    for task in _names(Path("/proc/self/task")):
        with contextlib.suppress(OSError):
            yield from Path(f"/proc/self/task/{task}/children").read_text().split()


def _sockets() -> Iterator[str]:
    for descriptor in _names(Path("/proc/self/fd")):
        with contextlib.suppress(OSError):
            kind, _, inode = os.readlink(f"/proc/self/fd/{descriptor}").partition(":")  # noqa: PTH115 - thrice as fast
            if kind == "socket":
                yield inode.strip("[]")


def _names(folder: Path) -> set[str]:
    with contextlib.suppress(OSError):
        return set(os.listdir(folder))  # noqa: PTH208 - names, and fast
    return set()


def _is_of_a_tool(name: str) -> bool:
    """The caches of pytest, hypothesis, mypy; and the browser's screenshots."""
    return name.startswith(".") or name == "artefacts"


def _in_words(one: str) -> str:
    """Empty for what is nobody's trouble: a process that has ended, a socket that nobody else can connect to."""
    kind, _, name = one.partition(" ")
    return _IN_WORDS.get(kind, lambda _: one)(name)


def _process_in_words(pid: str) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return "" if state == ZOMBIE or PYTHONS_OWN in command else f"process {pid}: {command}"


def _socket_in_words(inode: str) -> str:
    for protocol in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] == inode and fields[3] == LISTENING:
                return f"a socket that listens on TCP port {int(fields[1].rpartition(':')[2], 16)}"
    for line in Path("/proc/self/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[6] == inode and len(fields) > 7:
            return f"a socket at {fields[7]}"
    return ""


_IN_WORDS: dict[str, Callable[[str], str]] = {"process": _process_in_words, "socket": _socket_in_words}
