"""Runs a part of a model on a packed row: some layers on hidden states, or the ends on token ids and what comes back.

What a chain of parts gives is what the whole model gives, to the bit where the numbers of a row do not depend on what
is beside it. Knows nothing of sequences and of where rows come from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from p2pnet.errors import UsageError
from p2pnet.worker.engine.attention import IMPLEMENTATION, PackedSpan, UnsupportedAttention, packed
from p2pnet.worker.engine.kv_store import Kv
from p2pnet.worker.engine.memory import whole_blocks
from p2pnet.worker.engine.onednn import use_onednn
from p2pnet.worker.engine.runner import CHECK_TOKENS, difference
from p2pnet.worker.spans.loading import WHOLE, Part

REFUSALS = (UnsupportedAttention, RuntimeError, TypeError, ValueError, AttributeError, LookupError)
"""What a model raises that cannot be run in this way."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """The next `count` tokens of one sequence in a row, from position `start` on. Their keys and values go to `kv`."""

    start: int
    count: int
    kv: Kv


class SpanRunner:
    """Runs layers of a part. Raises UsageError, with the reason, when they cannot be run on packed rows."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._model = part.model
        self._decoder = part.model.base_model
        try:
            row = _check_row(part)
            expected = self._run(row, _positions([Stretch(0, len(row), Kv(0))]), part.first, part.last)
            part.model.set_attn_implementation(IMPLEMENTATION)
            use_onednn(part.model)
            kv = Kv(whole_blocks(CHECK_TOKENS))
            found, self.step_ms = self._in_pieces(row, kv)
            reason = difference([expected[-1]], [found[-1]])
        except REFUSALS as error:
            reason = str(error)
        if reason is not None:
            raise UsageError(f"This model's layers cannot be run by themselves: {reason}.", WHOLE)
        self.kv_bytes_per_token = sum(
            tensor.shape[0] * tensor.shape[2] * tensor.element_size()
            for layer in kv.layers.values()
            for tensor in layer
        )
        """What one token's keys and values take in all of its layers together."""
        self.bytes_per_token = self.kv_bytes_per_token + part.width * part.model.dtype.itemsize * (
            part.last < part.layers
        )
        """And with what the layers give for it, which is kept for the stage after them, where there is one."""

    @torch.inference_mode()
    def forward(self, row: torch.Tensor, stretches: Sequence[Stretch], first: int, last: int) -> torch.Tensor:
        """The hidden states (tokens, width) after layer `last` - 1, from those before layer `first`. Raises what torch
        raises."""
        spans: list[PackedSpan] = []
        at = 0
        for stretch in stretches:
            spans.append(PackedSpan(at, at + stretch.count, stretch.start, stretch.kv))
            at += stretch.count
        with packed(spans):
            return self._run(row, _positions(stretches), first, last)

    @torch.inference_mode()
    def _run(self, row: torch.Tensor, positions: list[int], first: int, last: int) -> torch.Tensor:
        device = self._model.device
        entering = row.to(device)[None]
        with self._part.passage.of(first, last, entering):
            self._decoder(
                inputs_embeds=entering, position_ids=torch.tensor([positions], device=device), use_cache=False
            )
            return self._part.passage.taken()[0].cpu()

    def _in_pieces(self, row: torch.Tensor, kv: Kv) -> tuple[torch.Tensor, float]:
        """What comes out of the last piece, one token, and how many milliseconds that takes."""
        found, took_ms = row, 0.0
        ends = (0, 5, 11, CHECK_TOKENS - 1, CHECK_TOKENS)
        for start, end in pairwise(ends):
            stretch, began_s = Stretch(start, end - start, kv), time.perf_counter()
            found = self.forward(row[start:end], [stretch], self._part.first, self._part.last)
            took_ms = (time.perf_counter() - began_s) * 1000
        return found, took_ms


class EndsRunner:
    """Runs what stands before and after the layers. Raises UsageError when that cannot be run by itself."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._model = part.model
        part.model.set_attn_implementation(IMPLEMENTATION)
        use_onednn(part.model)
        try:
            logits = self.logits(self.embed([0, 1], [0, 1]))
        except REFUSALS as error:
            raise UsageError(f"This model's ends cannot be run by themselves: {error}.", WHOLE) from error
        if logits.shape[0] != 2 or not bool(torch.isfinite(logits).all()):
            raise UsageError("This model's ends give no numbers by themselves.", WHOLE)

    @torch.inference_mode()
    def embed(self, ids: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """The hidden states (tokens, width) before the first layer."""
        passage, device = self._part.passage, self._model.device
        with packed([PackedSpan(0, len(ids), 0, Kv(0))]), passage.of(0, 0):
            self._model.base_model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
            )
            return passage.taken()[0].cpu()

    @torch.inference_mode()
    def logits(self, row: torch.Tensor) -> torch.Tensor:
        """The logits (tokens, vocabulary) in float32, from the hidden states after the last layer."""
        entering = row.to(self._model.device)[None]
        positions = torch.arange(len(row), device=self._model.device)[None]
        with packed([PackedSpan(0, len(row), 0, Kv(0))]), self._part.passage.of(0, 0, entering):
            output: Any = self._model(inputs_embeds=entering, position_ids=positions, use_cache=False)
        found: torch.Tensor = output.logits[0].to("cpu", torch.float32)
        return found


def _positions(stretches: Sequence[Stretch]) -> list[int]:
    return [position for each in stretches for position in range(each.start, each.start + each.count)]


def _check_row(part: Part) -> torch.Tensor:
    """Hidden states that no model was trained to have, the same each time."""
    numbers = torch.sin(torch.arange(CHECK_TOKENS * part.width, dtype=torch.float64) * 7.1)
    return numbers.view(CHECK_TOKENS, part.width).to(part.model.dtype)
