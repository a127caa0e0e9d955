"""From what the user calls a model to a model in memory. Knows nothing of requests.

Never runs code from a checkpoint: `trust_remote_code` is off and weights are safetensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from p2pnet.errors import UsageError
from p2pnet.worker.engine.checkpoint import Checkpoint, open_checkpoint
from p2pnet.worker.engine.digest import HashCache, Progress, digest

TINY = "tiny"
_TINY_FOLDER = Path(__file__).parents[2] / "assets" / TINY
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda", "mps")
AUTO = "auto"

_HUB_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")
"""What from_pretrained would read. Weights in other formats, or under other names, are not downloaded."""

_CONTEXT_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_ctx",
)
_MAX_CONTEXT_LENGTH = 1 << 24
"""What a capability record can say."""

Download = Callable[[str], Path]


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run, with what the engine needs to know of it."""

    model: Any
    tokenizer: Any
    digest: str
    dtype: str
    context_length: int
    end_token_ids: frozenset[int]

    @property
    def vocabulary_size(self) -> int:
        """How many ids the model has embeddings for; the tokenizer may know fewer."""
        return int(self.model.get_input_embeddings().weight.shape[0])


def download(model_id: str) -> Path:
    """Fetch a model from the Hugging Face hub, or find it in the local cache. Raises OSError and the hub's errors."""
    return Path(snapshot_download(model_id, allow_patterns=list(_HUB_FILES)))


def find_folder(spec: str, fetch: Download = download) -> Path:
    """The folder of a model: `tiny`, a folder, or the id of a model on the hub. Raises UsageError."""
    if spec == TINY:
        return _TINY_FOLDER
    folder = Path(spec).expanduser()
    if folder.is_dir() or spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        return folder
    try:
        return fetch(spec)
    except HFValidationError as error:
        raise UsageError(f"{spec!r} is neither a folder nor a model id.", f"Give a folder, or {TINY!r}.") from error
    except (OSError, HfHubHTTPError) as error:
        raise UsageError(
            f"The model {spec!r} could not be fetched from the Hugging Face hub.",
            f"Check the name and the network, or give a local folder, or {TINY!r} for the bundled model.",
        ) from error


def load_model(
    folder: Path,
    device: str,
    dtype: str,
    cache: HashCache,
    progress: Progress | None = None,
    available_bytes: int | None = None,
) -> LoadedModel:
    """Load the model in a folder. Raises UsageError when it cannot be, before anything large is read.

    `device` and `dtype` may be "auto". `available_bytes` is what there is room for; None asks the system.
    """
    checkpoint = open_checkpoint(folder)
    device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, device)
    config = _causal_config(checkpoint)
    context_length = _context_length(config, folder)
    _check_memory(checkpoint, chosen_dtype, _available_bytes(device) if available_bytes is None else available_bytes)
    tokenizer = _load_tokenizer(folder)
    model = _load_weights(folder, device, chosen_dtype)
    if "past_key_values" not in signature(model.forward).parameters:
        raise UsageError(f"The model in {folder} has no key-value cache.", "Use a transformer with attention.")
    name = str(model.dtype).removeprefix("torch.")
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        digest=digest(checkpoint, name, cache, progress),
        dtype=name,
        context_length=context_length,
        end_token_ids=_end_token_ids(model, tokenizer),
    )


def choose_device(device: str) -> str:
    """The device to run on. Raises UsageError when it is not there."""
    is_available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == AUTO:
        return next(name for name in ("cuda", "mps", "cpu") if is_available[name])
    if device not in is_available:
        raise UsageError(f"There is no device {device!r}.", f"Use one of: {AUTO}, {', '.join(DEVICES)}.")
    if not is_available[device]:
        raise UsageError(f"The device {device!r} is not available here.", "Use --device cpu, or --device auto.")
    return device


def choose_dtype(dtype: str, device: str) -> str:
    """The numbers' type. "auto" is float32 on a CPU, which many of them are fastest with, or else the checkpoint's."""
    if dtype == AUTO:
        return "float32" if device == "cpu" else AUTO
    if dtype not in DTYPES:
        raise UsageError(f"There is no dtype {dtype!r}.", f"Use one of: {AUTO}, {', '.join(DTYPES)}.")
    return dtype


def _causal_config(checkpoint: Checkpoint) -> Any:
    """The model's config, if it describes a language model that transformers itself knows."""
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise UsageError(
            f"The config of {checkpoint.folder} is not of a model that transformers knows.",
            "Use a model that needs no code of its own; such code is never run.",
        ) from error
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    architectures = checkpoint.config.get("architectures") or [known.get(config.model_type)]
    if config.model_type not in known or config.is_encoder_decoder or architectures[0] not in known.values():
        raise UsageError(
            f"The model in {checkpoint.folder} is not a causal language model.",
            "Use a model that generates text, such as a Llama, Qwen, Gemma, Mistral or GPT-2.",
        )
    return config


def _context_length(config: Any, folder: Path) -> int:
    text_config = config.get_text_config(decoder=True)
    lengths = (getattr(text_config, field, None) for field in _CONTEXT_FIELDS)
    length = next((length for length in lengths if isinstance(length, int) and length > 0), None)
    if length is None:
        raise UsageError(
            f"The config of {folder} does not say how long its context is.",
            "Add max_position_embeddings to config.json.",
        )
    return min(length, _MAX_CONTEXT_LENGTH)


def _check_memory(checkpoint: Checkpoint, dtype: str, available_bytes: int) -> None:
    element_bytes = None if dtype == AUTO else int(getattr(torch, dtype).itemsize)
    needed = checkpoint.memory_bytes(element_bytes)
    if needed > available_bytes:
        raise UsageError(
            f"The model needs {needed / 1e9:.1f} GB of memory, and {available_bytes / 1e9:.1f} GB are free.",
            "Use a smaller model, --dtype bfloat16, or a machine with more memory.",
        )


def _available_bytes(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def _load_tokenizer(folder: Path) -> Any:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer("")  # resets what the file says of truncation: later calls come from two threads, and only read
        return tokenizer
    except (ValueError, OSError, TypeError, KeyError, ImportError) as error:
        raise UsageError(
            f"The tokenizer in {folder} could not be loaded.", "Save it again with tokenizer.save_pretrained(folder)."
        ) from error


def _load_weights(folder: Path, device: str, dtype: str) -> Any:
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
        return model.eval().to(device)
    except torch.OutOfMemoryError as error:
        raise UsageError("The model does not fit the device's memory.", "Use a smaller model.") from error
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise UsageError(
            f"The weights in {folder} could not be loaded.", "Download or save the model again."
        ) from error


def _end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """All that end a generation: those of generation_config, one or several, and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(token_id for token_id in (*several, tokenizer.eos_token_id) if token_id is not None)
