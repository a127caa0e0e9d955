"""Decides how much memory keys and values may take. Asks the system what is free; allocates nothing."""

from __future__ import annotations

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints import footprint
from p2pnet.worker.engine.memory import BLOCK_TOKENS

CPU_SHARE = 0.5
"""The rest is for the person whose machine it is."""

DEVICE_SHARE = 0.85
"""Of what the weights leave of an accelerator: activations of a chunk take the rest."""

MIN_TOKENS = 4 * BLOCK_TOKENS
"""With less no conversation fits."""


def kv_tokens(
    device: str, bytes_per_token: int, useful_tokens: int, wanted_bytes: int | None, free_bytes: int | None = None
) -> int:
    """How many tokens' keys and values a model may keep.

    `wanted_bytes` is what the owner allows, None for as much as is useful and may be had; on a CPU never more than half
    of what is free. `free_bytes` None asks the system. Raises UsageError when that holds no conversation.
    """
    free = footprint.free_bytes(device) if free_bytes is None else free_bytes
    allowed = int(free * (DEVICE_SHARE if device == "cuda" else CPU_SHARE))
    if wanted_bytes is not None:
        allowed = min(allowed, wanted_bytes)
    tokens = allowed // bytes_per_token if wanted_bytes is not None else min(allowed // bytes_per_token, useful_tokens)
    if tokens < MIN_TOKENS:
        raise UsageError(
            f"Only {allowed / 1e6:.0f} MB may be used for keys and values, and {MIN_TOKENS} tokens of this model take "
            f"{MIN_TOKENS * bytes_per_token / 1e6:.0f} MB.",
            "Free memory, raise --kv-memory, or use a smaller model.",
        )
    return tokens
