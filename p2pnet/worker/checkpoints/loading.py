"""Loads a model into memory, from what the user calls it. Knows nothing of requests.

Never runs code from a checkpoint: `trust_remote_code` is off and weights are safetensors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.checkpoint import Checkpoint, open_checkpoint
from p2pnet.worker.checkpoints.digest import HashCache, Progress, digest
from p2pnet.worker.checkpoints.footprint import bytes_in_memory, free_bytes, planned_bytes
from p2pnet.worker.checkpoints.names import TINY, local_folder
from p2pnet.worker.checkpoints.plan import AUTO, LoadingPlan, plan_loading
from p2pnet.worker.checkpoints.quantization import NONE

_HUB_FILES = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "model.safetensors",
    "model-*.safetensors",
    "[0-9]_*/model.safetensors",
)
"""What from_pretrained would read. Weights in other formats, or under other names, are not downloaded."""

LOAD_ERRORS = (ValueError, OSError, RuntimeError, ImportError, TypeError, LookupError, AttributeError)
"""What transformers and the quantization libraries raise for files that do not fit one another."""

_PACKED_ROWS = 32

Download = Callable[[str], Path]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run, with what the engine needs to know of it."""

    model: Any
    tokenizer: Any
    digest: str
    dtype: str
    quantization: str
    memory_bytes: int
    """What the weights take, as measured."""
    context_length: int
    end_token_ids: frozenset[int]
    vocabulary_size: int
    """How many ids the model has embeddings for; the tokenizer may know fewer."""


def download(model_id: str) -> Path:
    """Fetch a model from the Hugging Face hub, or find it in the local cache. Raises OSError and the hub's errors."""
    return Path(snapshot_download(model_id, allow_patterns=list(_HUB_FILES)))


def find_folder(spec: str, fetch: Download = download) -> Path:
    """The folder of a model: `tiny`, a folder, or the id of a model on the hub. Raises UsageError."""
    folder = local_folder(spec)
    if folder is not None:
        return folder
    try:
        return fetch(spec)
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
    *,
    quantization: str = NONE,
) -> LoadedModel:
    """Load the model in a folder. Raises UsageError when that is not possible, before anything large is read.

    `device` and `dtype` may be "auto". `available_bytes` is what there is room for; None asks the system.
    """
    checkpoint = open_checkpoint(folder, may_be_quantized=True)
    plan = plan_loading(checkpoint, device, dtype, quantization)
    check_bytes(
        _needed_bytes(checkpoint, plan), free_bytes(plan.device) if available_bytes is None else available_bytes
    )
    tokenizer = load_tokenizer(folder)
    model = _load_weights(folder, plan)
    name = str(model.dtype).removeprefix("torch.")
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        digest=digest(checkpoint, name, cache, progress, quantization=plan.quantization.label),
        dtype=name,
        quantization=plan.quantization.label,
        memory_bytes=bytes_in_memory(model),
        context_length=plan.context_length,
        end_token_ids=end_token_ids(model, tokenizer),
        vocabulary_size=int(model.get_input_embeddings().weight.shape[0]),
    )


def check_memory(checkpoint: Checkpoint, dtype: str, available_bytes: int) -> None:
    """Raises UsageError when the weights do not fit."""
    check_bytes(checkpoint.memory_bytes(_element_bytes(dtype)), available_bytes)


def check_bytes(needed: int, available: int) -> None:
    if needed > available:
        raise UsageError(
            f"The model needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free.",
            "Use a smaller model, --dtype bfloat16, --quantization 8bit, or a machine with more memory.",
        )


def _needed_bytes(checkpoint: Checkpoint, plan: LoadingPlan) -> int:
    """The bytes in the files' headers, or those of the model's outline if its weights will not stay as they are in the
    files."""
    element_bytes = _element_bytes(plan.dtype)
    if element_bytes is None or not (plan.quantization.requested or plan.quantization.is_widened):
        return checkpoint.memory_bytes(element_bytes)
    try:
        with torch.device("meta"):
            outline: Any = AutoModelForCausalLM.from_config(plan.config)
    except LOAD_ERRORS as error:
        raise UsageError(
            f"The config of {checkpoint.folder} describes no model that can be built.", "Download the model again."
        ) from error
    return planned_bytes(outline, element_bytes, plan.quantization.bytes_per_weight or element_bytes)


def _element_bytes(dtype: str) -> int | None:
    return None if dtype == AUTO else int(getattr(torch, dtype).itemsize)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder. Raises UsageError."""
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tokenizer("")  # resets what the file says of truncation: later calls come from two threads, and only read
        return tokenizer
    except (ValueError, OSError, TypeError, KeyError, ImportError) as error:
        raise UsageError(
            f"The tokenizer in {folder} could not be loaded.", "Save it again with tokenizer.save_pretrained(folder)."
        ) from error


def _load_weights(folder: Path, plan: LoadingPlan) -> Any:
    try:
        options = _quantized_options(plan)
        model: Any
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=plan.config,
            dtype=plan.dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
        if found["missing_keys"]:
            raise ValueError(f"{min(found['missing_keys'])} would be random")
        if plan.quantization.is_widened:
            _narrow(model, getattr(torch, plan.dtype))
        _avoid_packing(model)
        return model.eval() if options else model.eval().to(plan.device)
    except torch.OutOfMemoryError as error:
        raise UsageError("The model does not fit the device's memory.", "Use a smaller model.") from error
    except LOAD_ERRORS as error:
        raise UsageError(
            f"The weights in {folder} could not be loaded.", "Download or save the model again."
        ) from error


def _quantized_options(plan: LoadingPlan) -> dict[str, Any]:
    """What else from_pretrained is told if the model in memory is quantized."""
    if plan.quantization.label == NONE or plan.quantization.is_widened:
        return {}
    options: dict[str, Any] = {"device_map": {"": plan.device}}  # such weights can often not be moved later
    if plan.quantization.is_bitsandbytes:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at each product of each step
    if plan.quantization.requested:
        options["quantization_config"] = BitsAndBytesConfig(
            **plan.quantization.requested, bnb_4bit_compute_dtype=getattr(torch, plan.dtype)
        )
    return options


def _narrow(model: Any, dtype: torch.dtype) -> None:
    """Narrow all parameters to this type: weights that were multiplied by wider scales are as wide as those, and so are
    the norms beside them. Buffers stay as they are: they rotate positions, and are wide on purpose."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _avoid_packing(model: Any) -> None:
    """Switch packing off where it would fail. On CPUs with AVX512-BF16 bitsandbytes packs 4-bit weights anew before
    their first use: much faster, but it fails where the layer's width is not made of whole blocks."""
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and (state.shape[0] % _PACKED_ROWS or state.shape[1] % state.blocksize):
            module.support_avx512bf16_for_cpu = False


def end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """All ids that end a generation: those of generation_config, one or several, and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(token_id for token_id in (*several, tokenizer.eos_token_id) if token_id is not None)
