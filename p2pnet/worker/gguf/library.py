"""Opens llama.cpp, by llama-cpp-python's low-level interface, and says which version it is and which devices it offers.

The package is an extra, `p2pnet[gguf]`, so it is imported when a GGUF file is to be run, and not before.
"""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from packaging.specifiers import SpecifierSet

from p2pnet.errors import UsageError

PACKAGE = "llama-cpp-python"
VERSIONS = ">=0.3.36,<0.3.37"
"""Those of pyproject.toml. The bindings pass llama.cpp's own structures on, which change from one to the next."""

REINSTALL = f"pip install --force-reinstall --no-cache-dir --no-deps '{PACKAGE}{VERSIONS}'"
"""Builds it anew."""

_GPU_TYPES = frozenset({1, 2})
"""GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU of ggml-backend.h."""

_NAMES = {"cuda": ("CUDA", "ROCm"), "mps": ("MTL", "Metal"), "vulkan": ("Vulkan",)}
"""How ggml's devices are called, by what --device calls them."""

_BUILDS = {"cuda": "-DGGML_CUDA=ON", "mps": "-DGGML_METAL=ON", "vulkan": "-DGGML_VULKAN=ON"}

_ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR of ggml.h."""

_MAX_ERRORS = 16
"""How many lines of what went wrong are kept: a file that cannot be read has three."""

logger = logging.getLogger(__name__)

_errors: deque[str] = deque(maxlen=_MAX_ERRORS)


def is_installed() -> bool:
    return find_spec("llama_cpp") is not None


@cache
def library() -> Any:
    """The module `llama_cpp`, ready for use. Raises UsageError where it is not installed, or does not work."""
    try:
        import llama_cpp
    except ImportError as error:
        raise UsageError(
            "Running a GGUF file takes llama.cpp, which is not installed.", "Run: pip install 'p2pnet[gguf]'"
        ) from error
    except (OSError, RuntimeError, AttributeError) as error:  # of ctypes: a library that is damaged, or not its own
        raise UsageError(
            f"The installed {PACKAGE} does not work: {error}.",
            f"Install it again: {REINSTALL}",
        ) from error
    check_version(version(PACKAGE))
    llama_cpp.llama_log_set(_log_callback(llama_cpp), None)
    llama_cpp.llama_backend_init()
    return llama_cpp


def check_version(found: str) -> None:
    """Raises UsageError for one that nobody has run the tests with: it might read other structures than it is given."""
    if found not in SpecifierSet(VERSIONS):
        raise UsageError(f"{PACKAGE} {found} is installed, and {VERSIONS} is needed.", f"Run: {REINSTALL}")


@cache
def _log_callback(llama: Any) -> Any:
    """Takes what llama.cpp says. It is kept for as long as the process lives, as llama.cpp asks for."""

    def said(level: int, text: bytes, _: object) -> None:
        line = text.decode(errors="replace").rstrip()
        if level == _ERROR_LEVEL and line:
            _errors.append(line)
        if len(line) > 1:  # the dots of a progress bar are not logged
            logger.debug("llama.cpp: %s", line)

    return llama.llama_log_callback(said)


def take_errors() -> tuple[str, ...]:
    """What llama.cpp has said of errors since it was last asked."""
    taken = tuple(_errors)
    _errors.clear()
    return taken


def family() -> str:
    """Which llama.cpp this is, as a model's digest says it.

    Each version of llama-cpp-python brings another llama.cpp, whose tokenizer, chat or rotary embedding may have been
    corrected: they give other tokens. Builds of one version for other processors and devices differ in the last digits
    of a logit only, which the sampler forgives: they are one family.
    """
    library()
    return f"{PACKAGE}/{version(PACKAGE)}"


@dataclass(frozen=True)
class Device:
    """A device of ggml's. `handle` None is the processor. `kind` is its name for --device."""

    kind: str
    name: str
    description: str
    free_bytes: int | None = None
    handle: int | None = None


CPU = Device("cpu", "CPU", "the processor")


def accelerators() -> tuple[Device, ...]:
    """The devices beside the processor that this build of llama.cpp can use here. Raises UsageError."""
    ggml = library().llama_cpp._lib  # the bindings do not have these functions; the library that they load does
    get = _function(ggml.ggml_backend_dev_get, ctypes.c_void_p, ctypes.c_size_t)
    kind_of = _function(ggml.ggml_backend_dev_type, ctypes.c_int, ctypes.c_void_p)
    count = _function(ggml.ggml_backend_dev_count, ctypes.c_size_t)()
    handles = [get(index) for index in range(count)]
    return tuple(_device(ggml, handle) for handle in handles if kind_of(handle) in _GPU_TYPES)


def choose_device(wanted: str) -> Device:
    """The device for what --device says: `auto` is an accelerator where llama.cpp offers one. Raises UsageError."""
    if wanted == CPU.kind:
        return CPU
    found = [device for device in accelerators() if wanted in ("auto", device.kind)]
    if found:
        return found[0]
    if wanted == "auto":
        return CPU
    raise UsageError(
        f"The installed llama.cpp offers no device {str(wanted)!r} here.",
        f"Use --device cpu, or build it for that device: CMAKE_ARGS={_BUILDS.get(wanted, '')} {REINSTALL}",
    )


def _device(ggml: Any, handle: int) -> Device:
    name = _text(ggml.ggml_backend_dev_name, handle)
    kind = next((kind for kind, names in _NAMES.items() if name.startswith(names)), "other")
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    pointers = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t))
    _function(ggml.ggml_backend_dev_memory, None, *pointers)(handle, ctypes.byref(free), ctypes.byref(total))
    return Device(kind, name, _text(ggml.ggml_backend_dev_description, handle), free.value, handle)


def _text(function: Any, handle: int) -> str:
    found: bytes = _function(function, ctypes.c_char_p, ctypes.c_void_p)(handle)
    return found.decode(errors="replace")


def _function(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = result, list(arguments)
    return function
