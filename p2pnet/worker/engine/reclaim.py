"""Gives memory that is not used any more back to the machine."""

from __future__ import annotations

import ctypes
import gc
import sys

import torch


def reclaim_memory() -> None:
    """Call it in a thread, after the last reference to something large is gone. Takes some 0.2 s."""
    gc.collect()  # errors and some models hold references in circles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
