"""Tries a GGUF file in a process of its own before anybody is promised an answer.

llama.cpp is C++: built for another processor it dies of an illegal instruction, and with a file that it does not expect
it may end its process. That is said here, and not suffered. Computes one step; knows nothing of networks.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2pnet.display.printable import printable_line
from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.gguf_files import hub_gguf, local_gguf
from p2pnet.worker.gguf.context import ContextFailed, bytes_per_token
from p2pnet.worker.gguf.library import REINSTALL, choose_device
from p2pnet.worker.gguf.model import LlamaModel, check_generates, check_room

PORTABLE_BUILD = (
    'CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON" ' + REINSTALL
)
"""For x86-64. By itself it is built for what the processor names, which a virtual machine may not allow."""

_REFUSED = 1
"""The status of a trial that has said what is wrong."""


@dataclass(frozen=True)
class Said:
    """What a trial says on its standard output."""

    message: str
    fix: str


Run = Callable[[Sequence[str]], subprocess.CompletedProcess[bytes]]


def run_apart(arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Another Python with these arguments, to its end."""
    return subprocess.run([sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)


def try_out(path: Path, device: str, run: Run = run_apart) -> None:
    """Load a file and compute one step, elsewhere. Raises UsageError."""
    found = run(["-m", __name__, str(path), device])
    if found.returncode:
        raise reason(path, found.returncode, found.stdout, found.stderr)


def try_out_files(models: Iterable[str], device: str) -> None:
    """Try those of the models that are GGUF files on this machine. Raises UsageError."""
    for model in models:
        path = local_gguf(model) if hub_gguf(model) is None else None
        if path is not None:
            try_out(path, device)


def reason(path: Path, status: int, stdout: bytes, stderr: bytes) -> UsageError:
    """Why a trial ended with this status, which is negative where a signal ended it."""
    if status == -signal.SIGILL:
        return UsageError(
            "The installed llama.cpp was built for another processor: it dies of an illegal instruction here.",
            f"Build it again for this one: {PORTABLE_BUILD}",
        )
    if status == -signal.SIGKILL:
        return UsageError(
            f"{path.name} does not fit into memory: the system ended the process that tried it.",
            "Use a smaller model, or a file with fewer bits.",
        )
    if status == _REFUSED:
        try:
            said = msgspec.json.decode(stdout, type=Said)
            return UsageError(said.message, said.fix)
        except msgspec.DecodeError:
            pass
    last = stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return UsageError(
        f"llama.cpp failed while it tried {path.name}: {printable_line(last) or f'it ended with status {status}'}.",
        f"Try another file of this model, or --device cpu, or install llama.cpp again: {REINSTALL}",
    )


def main(path: Path, device: str) -> None:
    """The trial itself. Exits with _REFUSED after it has said why, or dies of what it tries."""
    try:
        chosen = choose_device(device)
        vocabulary = LlamaModel(path, vocabulary_only=True)  # a damaged file is known before anything large is read
        check_generates(vocabulary)
        check_room(path, chosen)
        bytes_per_token(LlamaModel(path, chosen), threads=1)
    except UsageError as error:
        said = Said(error.message, error.fix)
    except ContextFailed as error:
        said = Said(f"llama.cpp does not run {path.name}: {error}.", "Use another file of this model, or --device cpu.")
    else:
        return
    print(msgspec.json.encode(said).decode())
    sys.exit(_REFUSED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
