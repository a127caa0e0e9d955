"""Keeps what the layers gave for each token of a sequence, where its keys and values are, so that it grows, is copied
and is dropped with them. Knows nothing of who asks for it."""

from __future__ import annotations

import torch

from p2pnet.worker.engine.kv_store import Kv

OUTPUTS = -1
"""In place of a layer's number: no layer has it."""


def keep_outputs(kv: Kv, start: int, states: torch.Tensor) -> None:
    """Keep the hidden states (tokens, width) of the tokens from position `start` on."""
    kv.write(OUTPUTS, start, states[None], states[None, :, :0])


def kept_outputs(kv: Kv, start: int, end: int) -> torch.Tensor:
    """Those from position `start` to before `end`, which were kept."""
    return kv.layers[OUTPUTS][0][0, start:end]
