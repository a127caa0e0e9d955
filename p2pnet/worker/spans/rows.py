"""Turns the bytes of a row, as they travel, into hidden states and back. Knows nothing of what is computed."""

from __future__ import annotations

import torch


def to_states(body: bytes, width: int, dtype: str) -> torch.Tensor:
    """Hidden states (tokens, width) from little-endian numbers, which were counted before."""
    if not body:
        return torch.empty((0, width), dtype=getattr(torch, dtype))
    return torch.frombuffer(bytearray(body), dtype=getattr(torch, dtype)).view(-1, width)


def to_body(states: torch.Tensor) -> bytes:
    """The little-endian numbers of hidden states."""
    return states.contiguous().view(torch.uint8).numpy().tobytes() if states.numel() else b""


def are_finite(states: torch.Tensor) -> bool:
    return bool(torch.isfinite(states).all())
