"""Judges the facts about this machine, which `machine` gathers. Functions of data alone."""

from __future__ import annotations

from dataclasses import dataclass

from p2pnet.doctor.verdict import Verdict, failed, ok, warning

GB = 1e9

MIN_DISK_BYTES = int(1 * GB)
"""Less, and a download or a database may break off in the middle."""
SCANT_DISK_BYTES = int(10 * GB)
"""A model of seven billion parameters in four bits, and room to download it."""
MIN_MEMORY_BYTES = int(1 * GB)
"""torch, p2pd and the bundled model take 0.7 GB."""
SCANT_MEMORY_BYTES = int(4 * GB)
"""Any model of use takes more."""
MIN_PYTHON = (3, 11)


@dataclass(frozen=True)
class Disk:
    """The disk of a folder that is wanted, and its free space. `problem` says why it cannot be written to."""

    what: str
    folder: str
    free_bytes: int
    problem: str | None = None


@dataclass(frozen=True)
class Memory:
    available_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Gpu:
    """What torch says when it is imported in a process of its own. `problem` is what that process died of; `has_nvidia`
    says that there is a driver."""

    problem: str | None = None
    names: tuple[str, ...] = ()
    memory_bytes: tuple[int, ...] = ()
    has_mps: bool = False
    has_nvidia: bool = False
    cpu_threads: int = 1


@dataclass(frozen=True)
class Llama:
    """What llama.cpp says in a process of its own. `version` None is none installed, `problem` what that process died
    of. `devices` are those beside the processor."""

    version: str | None = None
    devices: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Package:
    """A package that p2pnet needs. `wanted` is the range of versions, as in pyproject.toml; `fits` is None when it is
    not installed."""

    name: str
    wanted: str
    found: str | None
    fits: bool | None


@dataclass(frozen=True)
class Port:
    """An address to listen on, and why nothing can listen there, if so."""

    address: str
    problem: str | None = None


def judge_disk(disk: Disk) -> Verdict:
    free = f"{disk.free_bytes / GB:.1f} GB free for {disk.what} in {disk.folder}"
    elsewhere = "Free some, or move it: P2PNET_DATA_DIR and HF_HOME name other folders."
    if disk.problem is not None:
        return failed("disk", f"{disk.folder}, for {disk.what}, cannot be written to: {disk.problem}", elsewhere)
    if disk.free_bytes < MIN_DISK_BYTES:
        return failed("disk", free, elsewhere)
    return warning("disk", free, elsewhere) if disk.free_bytes < SCANT_DISK_BYTES else ok("disk", free)


def judge_memory(memory: Memory) -> Verdict:
    says = f"{memory.available_bytes / GB:.1f} GB of {memory.total_bytes / GB:.1f} GB are available"
    if memory.available_bytes < MIN_MEMORY_BYTES:
        return failed("memory", says, "Close other programs, or lend another machine: even tiny needs 1 GB.")
    if memory.available_bytes < SCANT_MEMORY_BYTES:
        return warning("memory", says, "Serve small models, or with --quantization 4bit.")
    return ok("memory", says)


def judge_gpu(gpu: Gpu) -> Verdict:
    if gpu.problem is not None:
        return failed(
            "gpu", f"torch cannot be used: {gpu.problem}", "Install it again: pip install --force-reinstall torch."
        )
    if gpu.names:
        sizes = zip(gpu.names, gpu.memory_bytes, strict=True)
        return ok("gpu", ", ".join(f"{name} with {size / GB:.0f} GB" for name, size in sizes))
    if gpu.has_mps:
        return ok("gpu", "Apple's GPU, by --device mps")
    on_cpu = f"models run on {gpu.cpu_threads} threads of the CPU"
    if gpu.has_nvidia:
        return warning(
            "gpu",
            f"there is an NVIDIA driver, but torch finds no GPU: {on_cpu}",
            "Install a torch that is built for this driver's CUDA (https://pytorch.org/get-started).",
        )
    return ok("gpu", f"none: {on_cpu}")


def judge_llama(llama: Llama) -> Verdict:
    if llama.problem is not None:
        return warning(
            "gguf",
            f"llama.cpp cannot be used: {llama.problem.rstrip('.')}",
            "Install it again; docs/volunteer.md says how to build it for this machine.",
        )
    if llama.version is None:
        return ok("gguf", "no llama.cpp: to lend GGUF files, pip install 'p2pnet[gguf]'")
    return ok("gguf", f"llama.cpp of llama-cpp-python {llama.version} runs them on {_places(llama.devices)}")


def _places(devices: tuple[str, ...]) -> str:
    return ", ".join(devices) if devices else "the processor"


def judge_model(problem: str | None) -> Verdict:
    """`problem` is why the bundled model does not generate; None when it does."""
    if problem is None:
        return ok("model", "the bundled model generates")
    return failed(
        "model",
        f"the bundled model does not generate: {problem.rstrip('.')}",
        "Install the versions that p2pnet is tested with: pip install -c constraints.txt, in its folder.",
    )


def judge_python(version: tuple[int, int, int]) -> Verdict:
    says = "python " + ".".join(map(str, version))
    if version[:2] < MIN_PYTHON:
        return failed("versions", says, "Install Python 3.11 or later, and p2pnet with it.")
    return ok("versions", says)


def judge_packages(packages: tuple[Package, ...]) -> Verdict:
    """One line for all: the first that does not fit decides."""
    for package in packages:
        install = f"Install it: pip install '{package.name}{package.wanted}'."
        if package.found is None:
            return failed("versions", f"{package.name} is not installed", install)
        if not package.fits:
            return failed("versions", f"{package.name} {package.found}, where {package.wanted} is needed", install)
    return ok("versions", ", ".join(f"{package.name} {package.found}" for package in packages))


def judge_ports(ports: tuple[Port, ...]) -> Verdict:
    for port in ports:
        if port.problem is not None:
            return failed(
                "ports",
                f"nothing can listen on {port.address}: {port.problem}",
                "End the other program there (a worker of yours, perhaps), or name another address with --listen.",
            )
    return ok("ports", f"free to listen on: {', '.join(port.address for port in ports)}")
