"""Decides how a checkpoint is loaded: on which device, in which numbers, quantized or not. Reads no weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.checkpoint import Checkpoint
from p2pnet.worker.checkpoints.quantization import NONE, QuantizationPlan, choose_quantization

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")

DEVICES = ("cpu", "cuda", "mps")

AUTO = "auto"

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


def choose_device(device: str) -> str:
    """The device to run on. Raises UsageError when this machine does not have it."""
    is_available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == AUTO:
        return next(name for name in ("cuda", "mps", "cpu") if is_available[name])
    if device not in is_available:
        raise UsageError(f"There is no device {device!r}.", f"Use one of: {AUTO}, {', '.join(DEVICES)}.")
    if not is_available[device]:
        raise UsageError(f"The device {str(device)!r} is not available here.", "Use --device cpu, or --device auto.")
    return device


def emulates_bfloat16(device: str) -> bool:
    """Whether the device has no bfloat16 of its own: NVIDIA's before Ampere compute it many times slower."""
    return device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)


def choose_dtype(
    dtype: str, device: str, configured: str = "", is_emulated: Callable[[str], bool] = emulates_bfloat16
) -> str:
    """The type of numbers. "auto" is float32 on a CPU, since many are fastest with it, or else the checkpoint's, which
    is `configured` where that is known; but float16 instead of a bfloat16 that is only emulated."""
    if dtype == AUTO:
        if device == "cpu":
            return "float32"
        return "float16" if configured == "bfloat16" and is_emulated(device) else AUTO
    if dtype not in DTYPES:
        raise UsageError(f"There is no dtype {dtype!r}.", f"Use one of: {AUTO}, {', '.join(DTYPES)}.")
    if dtype == "float16" and device == "cpu":
        logger.warning("float16 is slow on most CPUs: bfloat16 or float32 may be faster here")
    return dtype


@dataclass(frozen=True)
class LoadingPlan:
    """How the weights will be loaded. `dtype` may be "auto" where they are not quantized."""

    device: str
    dtype: str
    quantization: QuantizationPlan
    config: Any
    context_length: int


def plan_loading(checkpoint: Checkpoint, device: str, dtype: str, quantization: str) -> LoadingPlan:
    """Decide how to load a checkpoint. Raises UsageError if it cannot be loaded so."""
    device = choose_device(device)
    chosen = choose_quantization(quantization, checkpoint.quantization_config, device)
    config = _causal_config(checkpoint)
    for part in (config, config.get_text_config(decoder=True)):
        if isinstance(own := getattr(part, "quantization_config", None), dict):
            part.quantization_config = {**own, **chosen.overrides}
    return LoadingPlan(
        device,
        _dtype_to_compute(dtype, device, config, chosen),
        chosen,
        config,
        _context_length(config, checkpoint.folder),
    )


def _dtype_to_compute(dtype: str, device: str, config: Any, quantization: QuantizationPlan) -> str:
    """The type to compute in. Quantized weights do not say it; the config may."""
    configured = str(config.get_text_config(decoder=True).dtype).removeprefix("torch.")
    if quantization.label == NONE:
        return choose_dtype(dtype, device, configured)
    configured = configured if configured in DTYPES else "bfloat16"
    chosen = choose_dtype(dtype, device, configured)
    return configured if chosen == AUTO else chosen


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
            "Use a model that generates text, such as a Llama, Qwen, Gemma, Mistral or GPT-2. One that reads images is "
            "lent with --upstream, from a server that runs it.",
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
