"""A checkpoint's logits at each place of a text, for the benchmarks beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = Path(__file__).parents[2] / "docs" / "architecture.md"
"""A text that any checkout has, and no model has learnt."""

WINDOW = 128
"""Tokens that are read at once: each place has some of them before it."""


def load(folder: Path, dtype: str) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    model: Any = AutoModelForCausalLM
    tokenizer: Any = AutoTokenizer
    loaded = model.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).eval()
    return loaded, tokenizer.from_pretrained(folder, local_files_only=True)


def windows(tokenizer: Any, places: int) -> list[list[int]]:
    """As many windows of the text as have so many places."""
    ids = tokenizer(TEXT.read_text())["input_ids"]
    begins = range(0, len(ids) - WINDOW, WINDOW)[: -(-places // WINDOW)]
    return [ids[begin : begin + WINDOW] for begin in begins]


@torch.inference_mode()
def logits_of_text(folder: Path, dtype: str, places: int) -> torch.Tensor:
    """(places, vocabulary) in float32."""
    model, tokenizer = load(folder, dtype)
    found = [model(input_ids=torch.tensor([ids])).logits[0].float() for ids in windows(tokenizer, places)]
    return torch.cat(found)[:places]
