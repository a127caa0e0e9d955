"""Lists and shows models as Ollama does, and finds the one that a name means. Pure but for the list it is handed.

Workers announce no parameter count, no size of files and no architecture. What Ollama's clients expect there is read
off the model's name, and only for showing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from gateway.interface import ModelEntry
from gateway.model_names.naming import DEFAULT_TAG, Index, find_model, meant_by
from gateway.surfaces.ollama.render import timestamp
from p2pnet.errors import ModelNotFound
from p2pnet.features import FIM, IMAGES, TOOLS

LOADED_FOR_S = 300.0
"""How long a loaded model is said to stay: Ollama's default. Workers do not tell."""

UNKNOWN_SIZE_BYTES = 1 << 30
"""Shown where the name says nothing of a model's size: clients expect a number above 0."""

UNKNOWN_CONTEXT_LENGTH = 4096
"""Ollama's own default, shown where no worker has told."""

_PARAMETERS = re.compile(r"(?:^|[-_:/ ])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])")
_FACTORS = {"m": 1_000_000, "b": 1_000_000_000}
_FAMILY = re.compile(r"[a-z]+\d*")
_GGUF = re.compile(r"I?Q\d", re.IGNORECASE)
_DTYPE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}
_DTYPE_LEVELS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class ModelList:
    """Finds a model by the name that an Ollama client has for it."""

    def __init__(
        self, list_models: Callable[[], Sequence[ModelEntry]], aliases: Mapping[str, str] | None = None
    ) -> None:
        self._list_models = list_models
        self._aliases = aliases or {}
        self._by_id = Index(lambda entries: {entry.id: entry for entry in entries})
        self._by_folded = Index(lambda entries: {entry.id.casefold(): entry for entry in entries})
        self._folded_aliases = {name.casefold(): model.casefold() for name, model in self._aliases.items()}

    def find(self, name: str) -> ModelEntry | None:
        """The model that a name stands for, or else that it would stand for in other case, as Ollama has it. None for
        `auto`, too: what that stands for depends on the request."""
        entries = self._list_models()
        by_id, by_folded = self._by_id.of(entries), self._by_folded.of(entries)
        found = by_id.get(meant_by(name, by_id, self._aliases))
        return found or by_folded.get(meant_by(name.casefold(), by_folded, self._folded_aliases))

    def get(self, name: str) -> ModelEntry:
        """As `find`, where the model only has to be there: any that is ready will do for `auto`. Raises ModelNotFound,
        in Ollama's words."""
        entry = self.find(name) or find_model(name, self._list_models(), self._aliases)
        if entry is None:
            raise not_found(name)
        return entry


def not_found(name: str) -> ModelNotFound:
    return ModelNotFound(f"model '{name[:128]}' not found", "model")


def render_tags(entries: Sequence[ModelEntry]) -> bytes:
    ids = {entry.id for entry in entries}
    return msgspec.json.encode({"models": [_listed(entry, ids) for entry in entries]})


def render_running(entries: Sequence[ModelEntry], now_s: float) -> bytes:
    """The models that a worker has in memory."""
    ids = {entry.id for entry in entries}
    return msgspec.json.encode(
        {"models": [_running(entry, ids, now_s) for entry in entries if entry.is_warm and entry.workers]}
    )


def render_shown(entry: ModelEntry) -> bytes:
    """The template and the parameters stay with the workers."""
    architecture = _family(entry)
    context_length = entry.context_length or UNKNOWN_CONTEXT_LENGTH
    information: dict[str, Any] = {
        "general.architecture": architecture,
        "general.basename": entry.id,
        f"{architecture}.context_length": context_length,
    }
    if (parameters := _parameters(entry.id)) is not None:
        information["general.parameter_count"] = parameters
    return msgspec.json.encode(
        {
            "modelfile": f"# Served by p2pnet\nFROM {entry.id}\n",
            "parameters": f"num_ctx                        {context_length}",
            "template": "{{ .Prompt }}",
            "details": _details(entry),
            "model_info": information,
            "capabilities": capabilities(entry),
            "modified_at": timestamp(entry.created_s),
        }
    )


def capabilities(entry: ModelEntry) -> list[str]:
    """What a model can do, in Ollama's words."""
    has = {
        "completion": "generate" in entry.tasks,
        "insert": FIM in entry.features,
        "tools": TOOLS in entry.features,
        "vision": IMAGES in entry.features,
        "embedding": "embed" in entry.tasks,
    }
    return [name for name, is_there in has.items() if is_there]


def _listed(entry: ModelEntry, ids: set[str]) -> dict[str, Any]:
    name = _shown_name(entry.id, ids)
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(entry.created_s),
        "size": _size_bytes(entry),
        "digest": _digest(entry),
        "details": _details(entry),
    }


def _running(entry: ModelEntry, ids: set[str], now_s: float) -> dict[str, Any]:
    listed = _listed(entry, ids)
    del listed["modified_at"]
    return {
        **listed,
        "expires_at": timestamp(now_s + LOADED_FOR_S),
        "size_vram": listed["size"],
        "context_length": entry.context_length or UNKNOWN_CONTEXT_LENGTH,
    }


def _shown_name(model_id: str, ids: set[str]) -> str:
    """Ollama's lists always have a tag, and there are clients that cut names at it."""
    tagged = model_id + DEFAULT_TAG
    return model_id if ":" in model_id.rpartition("/")[2] or tagged in ids else tagged


def _details(entry: ModelEntry) -> dict[str, Any]:
    family = _family(entry)
    level = _quantization_level(entry)
    return {
        "parent_model": "",
        "format": "gguf" if _GGUF.match(level) else "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": _parameter_size(entry.id),
        "quantization_level": level,
    }


def _digest(entry: ModelEntry) -> str:
    """Where workers run several, the first one stands for all."""
    if entry.digests:
        return entry.digests[0].removeprefix("sha256:")
    return sha256(entry.id.encode()).hexdigest()


def _family(entry: ModelEntry) -> str:
    found = _FAMILY.search(entry.id.rpartition("/")[2].lower())
    return found[0] if found else "unknown"


def _quantization_level(entry: ModelEntry) -> str:
    quantization = next((name for name in entry.quantizations if name != "none"), None)
    if quantization is not None:
        return quantization
    dtype = next(iter(entry.dtypes), "")
    return _DTYPE_LEVELS.get(dtype, dtype) or "unknown"


def _parameter_size(model_id: str) -> str:
    """`0.6B`, as the name has it; empty where it has none."""
    found = _PARAMETERS.search(model_id.lower())
    return found[0].lstrip("-_:/ ").upper() if found else ""


def _parameters(model_id: str) -> int | None:
    found = _PARAMETERS.search(model_id.lower())
    if found is None:
        return None
    return round(int(found[1] or 1) * float(found[2]) * _FACTORS[found[3]]) or None


def _size_bytes(entry: ModelEntry) -> int:
    """Parameters times the bits of each, which the quantization's name usually has in it."""
    parameters = _parameters(entry.id)
    if parameters is None:
        return UNKNOWN_SIZE_BYTES
    bits = re.search(r"[1-9]\d?", next((name for name in entry.quantizations if name != "none"), ""))
    each = int(bits[0]) if bits else _DTYPE_BITS.get(next(iter(entry.dtypes), ""), 16)
    return max(1, parameters * each // 8)
