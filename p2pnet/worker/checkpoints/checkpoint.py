"""Opens a model's folder in Hugging Face format: which files make it up, and how large it is.

Reads files only: knows nothing of torch, and loads nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.manifest import Manifest, read_manifest

_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""

INDEX_FILE = "model.safetensors.index.json"

_VOCABULARY_FILES = (
    "sentencepiece.bpe.model",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
_TOKENIZER_FILES = (
    *_VOCABULARY_FILES,
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_CHAT_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
_MORE_CHAT_TEMPLATES = "additional_chat_templates/*.jinja"
_CONFIG_FILES = ("config.json", "generation_config.json")

_ELEMENT_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


@dataclass(frozen=True)
class Checkpoint:
    """The files of one model. `weights` are those that the index names, or the only one; with a `manifest` some of them
    may be elsewhere."""

    folder: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    manifest: Manifest | None = None

    @property
    def present_weights(self) -> tuple[Path, ...]:
        """Those of the weights that are here."""
        return tuple(path for path in self.weights if path.is_file())

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        return self._existing(_TOKENIZER_FILES)

    @property
    def chat_template_files(self) -> tuple[Path, ...]:
        return self._existing(_CHAT_TEMPLATE_FILES) + tuple(sorted(self.folder.glob(_MORE_CHAT_TEMPLATES)))

    @property
    def config_files(self) -> tuple[Path, ...]:
        return self._existing(_CONFIG_FILES)

    @property
    def quantization_config(self) -> dict[str, Any] | None:
        """What the config says of quantized weights, at its top or in its text part. Raises UsageError."""
        text_config = self.config.get("text_config")
        for config in (self.config, text_config if isinstance(text_config, dict) else {}):
            if (found := config.get("quantization_config")) is not None:
                if not isinstance(found, dict):
                    raise _damaged(self.folder / "config.json")
                return found
        return None

    def _existing(self, names: tuple[str, ...]) -> tuple[Path, ...]:
        return tuple(path for path in (self.folder / name for name in names) if path.is_file())

    def memory_bytes(self, element_bytes: int | None) -> int:
        """What the weights take in memory with this many bytes per number; None is as many as in the file."""
        return sum(
            math.prod(shape) * (element_bytes if element_bytes and dtype[0] in "FB" else _ELEMENT_BYTES.get(dtype, 1))
            for path in self.weights
            for dtype, shape in _tensors(path)
        )


def open_checkpoint(folder: Path, may_be_quantized: bool = False, may_be_partial: bool = False) -> Checkpoint:
    """Check that the folder holds a model that can be loaded, or with `may_be_partial` parts of one, of whose other
    parts it has a manifest. Raises UsageError, which says what is missing."""
    if not folder.is_dir():
        raise UsageError(f"The folder {folder} does not exist.", "Check the path, or give a model id from the hub.")
    config = _read_config(folder)
    manifest = read_manifest(folder) if may_be_partial else None
    checkpoint = Checkpoint(folder, config, _weights(folder, manifest), manifest)
    if checkpoint.quantization_config is not None and not may_be_quantized:
        raise UsageError(
            f"The model in {folder} is quantized, which is not supported.", "Use the original, unquantized checkpoint."
        )
    if not any(path.name in _VOCABULARY_FILES for path in checkpoint.tokenizer_files):
        raise UsageError(f"There is no tokenizer in {folder}.", "Save it there with tokenizer.save_pretrained(folder).")
    return checkpoint


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"There is no config.json in {folder}.", "Give a folder in Hugging Face format, as save_pretrained writes."
        ) from None
    except ValueError as error:
        raise _damaged(folder / "config.json") from error
    if not isinstance(config, dict):
        raise _damaged(folder / "config.json")
    return config


def _weights(folder: Path, manifest: Manifest | None) -> tuple[Path, ...]:
    """The files that from_pretrained would load: model.safetensors, or else the shards of the index."""
    elsewhere = frozenset[str]() if manifest is None else manifest.weights.keys()
    single, index = folder / "model.safetensors", folder / INDEX_FILE
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise UsageError(
            f"There are no safetensors weights in {folder}.",
            "Convert the model with model.save_pretrained(folder); other formats can run code and are not loaded.",
        )
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(index) from error
    shards = tuple(folder / str(name) for name in names)
    missing = [
        shard.name for shard in shards if shard.parent != folder or not (shard.is_file() or shard.name in elsewhere)
    ]
    if missing or not shards:
        raise UsageError(f"{folder} lacks {missing[0] if missing else 'any shard'}.", "Download the model again.")
    return shards


def _tensors(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor, from the file's header (https://huggingface.co/docs/safetensors)."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise _damaged(path)
            header = json.loads(file.read(length))
        yield from ((item["dtype"], tuple(item["shape"])) for name, item in header.items() if name != "__metadata__")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path} is damaged.", "Download or save the model again.")
