"""Gathers the facts about this machine: disk, memory, GPU, versions, ports. Judges none of them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

import msgspec
import psutil
from packaging.requirements import Requirement

from p2pnet.doctor.machine_verdicts import Disk, Gpu, Llama, Memory, Package, Port
from p2pnet.network.multiaddrs import parts_of

PACKAGES = ("torch", "transformers", "hivemind")
"""Those of our own requirements whose versions matter most."""

TORCH_SCRIPT = """
import json, pathlib, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
found = [torch.cuda.get_device_properties(index) for index in range(count)]
torch.ones(2, 2) @ torch.ones(2, 2)
print(json.dumps({
    "names": [gpu.name for gpu in found],
    "memory_bytes": [gpu.total_memory for gpu in found],
    "has_nvidia": pathlib.Path("/proc/driver/nvidia/version").exists(),
    "has_mps": torch.backends.mps.is_available(),
    "cpu_threads": torch.get_num_threads(),
}))
"""
"""In a process of its own: a broken torch may take its process with it."""


LLAMA_MODULE = "p2pnet.worker.gguf.offer"
"""In a process of its own, as torch."""

BENCH = (
    *("bench", "--model", "tiny", "--device", "cpu"),
    *("--concurrency", "1", "--prompt-tokens", "8", "--tokens", "2", "--json"),
)
"""The shortest run of the bundled model: versions may fit one another by their numbers, and not work together."""


def look_at_disks(data_dir: Path) -> tuple[Disk, ...]:
    """The data folder's disk, and that of the models from the hub."""
    return _disk("keys and hashes", data_dir), _disk("models", _hub_cache())


def look_at_memory() -> Memory:
    memory = psutil.virtual_memory()
    return Memory(memory.available, memory.total)


async def look_at_gpu() -> Gpu:
    """What torch says of the GPU. Takes as long as torch takes to be imported."""
    return gpu_from(*await _run("-c", TORCH_SCRIPT))


async def look_at_llama() -> Llama:
    """What the installed llama.cpp can compute on."""
    return llama_from(*await _run("-m", LLAMA_MODULE))


async def try_model() -> str | None:
    """Have the bundled model generate some tokens, as a worker would. Returns why it does not; None when it does."""
    return problem_from(*await _run("-m", "p2pnet", *BENCH))


async def _run(*arguments: str) -> tuple[int, bytes, bytes]:
    """Another Python with these arguments, to its end: its status, and what it said on both channels."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, stdout, stderr


def problem_from(status: int, stdout: bytes, stderr: bytes) -> str | None:
    """What a command that ended with this status says is wrong: its error, or else its last line."""
    if status == 0:
        return None
    said = stderr.decode(errors="replace").strip().splitlines()
    error = next((line.removeprefix("Error: ") for line in said if line.startswith("Error: ")), None)
    return error or (said[-1] if said else f"it ended with status {status}")


def gpu_from(status: int, stdout: bytes, stderr: bytes) -> Gpu:
    """Reads what the script says of torch in its last line."""
    last_line = stdout.strip().rpartition(b"\n")[2]
    try:
        if status == 0:
            return msgspec.json.decode(last_line, type=Gpu)
    except msgspec.MsgspecError:
        pass
    said = stderr.decode(errors="replace").strip().splitlines()
    return Gpu(problem=said[-1] if said else f"it ended with status {status}")


def llama_from(status: int, stdout: bytes, stderr: bytes) -> Llama:
    """Reads what the module says of llama.cpp."""
    try:
        if status == 0:
            return msgspec.json.decode(stdout, type=Llama)
    except msgspec.MsgspecError:
        pass
    if status == -signal.SIGILL:
        return Llama(problem="it was built for another processor, and dies of an illegal instruction")
    return Llama(problem=problem_from(status or 1, stdout, stderr))


def look_at_packages(requirements: Iterable[str] | None = None) -> tuple[Package, ...]:
    """Compares the installed versions with those that p2pnet's own metadata asks for."""
    wanted = map(Requirement, requirements if requirements is not None else metadata.requires("p2pnet") or ())
    by_name = {requirement.name: requirement for requirement in wanted if requirement.marker is None}
    return tuple(_package(by_name[name]) for name in PACKAGES if name in by_name)


def look_at_ports(listen: Iterable[str], make: Callable[..., socket.socket] = socket.socket) -> tuple[Port, ...]:
    """Whether this process could listen at these addresses. Port 0 is any free one; it is passed over where the machine
    has no IPv6, as p2pd does."""
    return tuple(Port(address, _why_not(address, make)) for address in listen)


def _disk(what: str, folder: Path) -> Disk:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    problem = None if os.access(there, os.W_OK | os.X_OK) else f"{there} is not yours"
    if not there.is_dir():
        problem = f"{there} is no folder"
    return Disk(what, str(folder), shutil.disk_usage(there).free, problem)


def _hub_cache() -> Path:
    """The folder in which huggingface_hub keeps models, by its own variables."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def _package(requirement: Requirement) -> Package:
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Package(requirement.name, str(requirement.specifier), None, None)
    fits = requirement.specifier.contains(found, prereleases=True)
    return Package(requirement.name, str(requirement.specifier), found, fits)


def _why_not(address: str, make: Callable[..., socket.socket]) -> str | None:
    (family_name, host), *rest = parts_of(address)
    kind_name, port = next(((name, value) for name, value in rest if name in ("tcp", "udp")), ("", "0"))
    if family_name not in ("ip4", "ip6") or not kind_name:
        return "it is no address of this machine with a TCP or UDP port"
    family = socket.AF_INET6 if family_name == "ip6" else socket.AF_INET
    try:
        with make(family, socket.SOCK_STREAM if kind_name == "tcp" else socket.SOCK_DGRAM) as probe:
            if kind_name == "tcp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # as p2pd does: IPv4 has a socket of its own
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, int(port)))
            if kind_name == "tcp":
                probe.listen(1)
    except OSError as error:
        is_passed_over = error.errno == errno.EAFNOSUPPORT and port == "0"
        return None if is_passed_over else error.strerror or str(error)
    return None
