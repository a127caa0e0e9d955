"""Computes how much memory a model's weights take, and asks how much is free."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def planned_bytes(outline: nn.Module, element_bytes: float, bytes_per_weight: float) -> int:
    """What the model will take if the weights of its linear layers take `bytes_per_weight` each, and the rest
    `element_bytes`. The output layer counts as the rest, and so do experts, which are no linear layers of their own."""
    linear_weights = {id(weight) for weight in _linear_weights(outline)}
    return round(
        sum(
            parameter.numel() * (bytes_per_weight if id(parameter) in linear_weights else element_bytes)
            for parameter in outline.parameters()
        )
    )


def bytes_in_memory(model: nn.Module) -> int:
    """What the weights take now, with their scales where they are quantized."""
    tensors = chain(model.parameters(), model.buffers(), _scales(model))
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _linear_weights(model: Any) -> Iterator[Tensor]:
    """The weights that bitsandbytes quantizes through transformers."""
    output = model.get_output_embeddings()
    for module in model.modules():
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and module is not output:
            yield module.weight


def _scales(model: nn.Module) -> Iterator[Tensor]:
    """The scales, which bitsandbytes keeps beside the parameters: one for each row of int8, one for each block of 4-bit
    numbers."""
    for parameter in model.parameters():
        scales = getattr(parameter, "SCB", None), getattr(getattr(parameter, "quant_state", None), "absmax", None)
        yield from (scale for scale in scales if isinstance(scale, Tensor))


def free_bytes(device: str) -> int:
    """Memory that the system says a model on this device may take."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)
