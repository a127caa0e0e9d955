"""Opens a GGUF file with llama.cpp: its weights, or its vocabulary alone. Says in one sentence why it cannot be.

Knows nothing of answers, nor of how tokens are computed.
"""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from pathlib import Path

import psutil

from p2pnet.display.printable import printable_line
from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.gguf_files import parts_of
from p2pnet.worker.gguf.library import CPU, PACKAGE, Device, library, take_errors

_TEXT_BYTES = 1 << 16
"""Enough for most values of the metadata; a longer one is asked for again."""

MAX_LABEL_CHARS = 32
"""Half of what a record allows: llama.cpp's own names are shorter."""

_AGAIN = "Download it again, and compare its size with the publisher's."
_NEWER = f"Install a later {PACKAGE} if there is one that p2pnet allows, or another file of this model."

_TROUBLES = (
    (r"invalid magic|failed to read magic", "is no GGUF file", "Give a file that ends in .gguf, as llama.cpp reads."),
    (r"version", "is in a version of GGUF that the installed llama.cpp does not read", _NEWER),
    (
        r"unknown model architecture: '(.{1,64}?)'",
        "is of the architecture {}, which the installed llama.cpp does not know",
        _NEWER,
    ),
    (r"pre-tokenizer type: '(.{1,64}?)'", "has the tokenizer {}, which the installed llama.cpp does not know", _NEWER),
    (r"file bounds|failed to read|corrupted", "is cut short or damaged", _AGAIN),
    (r"allocate|out of memory", "does not fit into memory", "Use a smaller model, or a file with fewer bits."),
)
"""What llama.cpp's words mean, how that is said of the file, and what to do."""


class LlamaModel:
    """One file's model in memory, for as long as there is a reference to it. Raises UsageError."""

    def __init__(self, path: Path, device: Device = CPU, *, vocabulary_only: bool = False) -> None:
        """`path` is the file, or the first of its parts. With `vocabulary_only` it reads no weights: it has metadata
        and tokenizer."""
        llama = library()
        params = llama.llama_model_default_params()
        params.vocab_only = vocabulary_only
        params.use_extra_bufts = (
            False  # weights repacked for this processor take other kernels for few rows: see rows.py
        )
        params.n_gpu_layers = 0 if device.handle is None else -1
        chosen = (ctypes.c_void_p * 2)(device.handle, None)  # a list that ends in NULL, and may be empty
        params.devices = ctypes.cast(chosen, ctypes.c_void_p)
        take_errors()
        self.handle = llama.llama_model_load_from_file(os.fsencode(path), params)
        if self.handle is None:
            raise trouble_with(path, take_errors())
        weakref.finalize(self, llama.llama_model_free, self.handle)
        self._llama = llama
        self.path = path
        self.device = device
        self.vocabulary = llama.llama_model_get_vocab(self.handle)
        self.vocabulary_size = int(llama.llama_vocab_n_tokens(self.vocabulary))

    def metadata(self, key: str) -> str | None:
        """A value of the file's metadata, as text. `{arch}` in the key stands for the architecture's name."""
        if "{arch}" in key:
            key = key.format(arch=self.metadata("general.architecture"))
        size = _TEXT_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.value.decode(errors="replace")
            size = length + 1

    def chat_template(self, name: str | None = None) -> str | None:
        """The template of this name, such as `tool_use`; without one the file's usual one. None where it has none."""
        found: bytes | None = self._llama.llama_model_chat_template(
            self.handle, None if name is None else name.encode()
        )
        return None if found is None else found.decode(errors="replace")

    @property
    def quantization(self) -> str:
        """How its weights are stored, as a label: `gguf-q4_k_m`."""
        name: bytes = self._llama.llama_ftype_name(self._llama.llama_model_ftype(self.handle)) or b""
        short = re.sub(r" - (\w)\w*", r"_\1", name.decode(errors="replace"))  # `Q4_K - Medium`
        return f"gguf-{re.sub(r'[^a-z0-9]+', '_', short.lower())[:MAX_LABEL_CHARS]}"

    @property
    def weight_bytes(self) -> int:
        return int(self._llama.llama_model_size(self.handle))

    @property
    def context_length(self) -> int:
        """The length that it was trained for, in tokens; 0 where the file does not say."""
        return int(self.metadata("{arch}.context_length") or 0)

    @property
    def goes_back(self) -> bool:
        """Whether what it keeps of a text can be cut back to any position: not where a state runs along the text."""
        return not (self._llama.llama_model_is_recurrent(self.handle) or self._llama.llama_model_is_hybrid(self.handle))


def check_generates(model: LlamaModel) -> None:
    """Raises UsageError for a file whose model does not write text from left to right."""
    llama = library()
    name = model.path.name
    is_causal = model.metadata("{arch}.attention.causal") != "false"
    if not is_causal or model.metadata("{arch}.pooling_type") not in (None, "0"):
        raise UsageError(
            f"The model in {name} embeds texts, and a GGUF file is run to generate them.",
            "Serve the folder in Hugging Face format that the file was made of.",
        )
    if llama.llama_model_has_encoder(model.handle) or llama.llama_model_is_diffusion(model.handle):
        raise UsageError(
            f"The model in {name} does not write its text one token after the other.",
            "Use one that does, such as a Llama, Qwen, Gemma or Mistral.",
        )
    if not model.context_length:
        raise UsageError(f"{name} does not say how long its context is.", "Use another file of this model.")


def check_room(path: Path, device: Device) -> None:
    """Raises UsageError when the weights do not fit into the device's memory: they take what their files do."""
    needed = sum(part.stat().st_size for part in parts_of(path))
    available = psutil.virtual_memory().available if device.free_bytes is None else device.free_bytes
    if needed > available:
        raise UsageError(
            f"{path.name} needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free.",
            "Use a smaller model, a file with fewer bits, or a machine with more memory.",
        )


def trouble_with(path: Path, errors: tuple[str, ...]) -> UsageError:
    """What to tell of a file that llama.cpp does not open, from what it said."""
    for pattern, what, fix in _TROUBLES:
        for error in errors:
            if found := re.search(pattern, error.replace(str(path), "")):
                return UsageError(f"{path.name} {what.format(*map(repr, found.groups()))}.", fix)
    said = printable_line(errors[0]).rstrip(".") if errors else "it gives no reason"
    return UsageError(f"llama.cpp does not open {path.name}: {said}.", _AGAIN)
