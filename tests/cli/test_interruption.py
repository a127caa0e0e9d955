"""Ctrl-C from the first line of ours to the last: one line, and the status that shells give it."""

from __future__ import annotations

import subprocess
import sys

import pytest

AT_IMPORT = """
import os, signal, sys
from p2pnet import __main__ as program

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
sys.argv = ["p2pnet", "--version"]
program.main()
"""
WITH_A_THREAD = """
import os, signal, sys, threading
from p2pnet import __main__ as program

def wait():
    threading.main_thread().join()
    while True:  # the first may come just before the main thread begins to wait
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.01)

threading.Thread(target=wait).start()
sys.argv = ["p2pnet", "--version"]
program.main()
"""
WHEN_ALL_IS_DONE = """
import atexit, os, signal, sys
from p2pnet import __main__ as program

atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.argv = ["p2pnet", "--version"]
program.main()
"""
PHASES = {
    "before the command line": AT_IMPORT.format(module="p2pnet.cli.main"),
    "while it is imported": AT_IMPORT.format(module="typer"),
    "late in its import": AT_IMPORT.format(module="p2pnet.cli.serve.command"),
    "in a command": AT_IMPORT.format(module="p2pnet.config"),
    "while a thread is waited for": WITH_A_THREAD,
}


@pytest.mark.parametrize("program", PHASES.values(), ids=PHASES)
def test_in_each_phase(program: str) -> None:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (130, "Interrupted.\n"), ended.stdout


BACKGROUND = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + PHASES["while it is imported"]


@pytest.mark.parametrize("program", [WHEN_ALL_IS_DONE, BACKGROUND], ids=["all is done", "a shell's background"])
def test_what_is_not_interrupted_ends_as_it_would(program: str) -> None:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("p2pnet/")
