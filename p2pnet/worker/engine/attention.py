"""Computes attention for sequences that share one forward pass, packed into one row. Each sees its own keys and values
only.

Registered with transformers as an attention implementation, so that every model that asks the attention interface can
use it: the model's other layers see one row of tokens, without padding, whatever sequences they belong to. The idea is
that of Orca's selective batching (Yu et al., OSDI 2022). Knows nothing of scheduling.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from p2pnet.worker.engine.kv_store import Kv

IMPLEMENTATION = "p2pnet_packed"

MAX_MASK_ELEMENTS = 1 << 24
"""Queries times keys of one call: a mask of 16 MiB, where a long prompt meets a long context."""


class UnsupportedAttention(Exception):
    """The model asks for a kind of attention that is not known here."""


@dataclass(frozen=True, eq=False)
class PackedSpan:
    """Where one sequence's tokens are: rows `first` to `last` of the packed row, positions from `start` on."""

    first: int
    last: int
    start: int
    kv: Kv
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)
    """By sliding window: they are the same in every layer."""


@dataclass(frozen=True, eq=False)
class _Scoring:
    """How a model weighs its keys. `softcap` is Gemma 2's, `sinks` are the attention sinks of gpt-oss."""

    scaling: float | None
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def is_plain(self) -> bool:
        return self.softcap is None and self.sinks is None


class _Step(threading.local):
    spans: Sequence[PackedSpan] = ()


_step = _Step()
"""What is being computed in this thread: models hand no further arguments down to their attention reliably."""


@contextmanager
def packed(spans: Sequence[PackedSpan]) -> Iterator[None]:
    """Within this context, a forward pass of a model with IMPLEMENTATION computes these spans."""
    _step.spans = spans
    try:
        yield
    finally:
        _step.spans = ()


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query (1, heads, tokens, dimension), and key and value with their own heads. Returns (1, tokens,
    heads, dimension).

    `s_aux` are the attention sinks. Raises UnsupportedAttention. Outside of `packed` it is plain attention: the same
    weights may serve embeddings in another thread.
    """
    if not _step.spans:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    if attention_mask is not None or others.get("position_bias") is not None:
        raise UnsupportedAttention("this model masks its attention in a way of its own")
    layer = module.layer_idx
    scoring = _Scoring(scaling, softcap, s_aux)
    found = query.new_empty((1, query.shape[2], query.shape[1], value.shape[3]))
    for span in _step.spans:
        rows = slice(span.first, span.last)
        keys, values = span.kv.write(layer, span.start, key[0, :, rows], value[0, :, rows])
        queries = query[0, :, rows]
        if span.last - span.first == 1 and scoring.is_plain:
            if sliding_window is not None:
                keys, values = keys[:, -sliding_window:], values[:, -sliding_window:]
            found[0, rows] = scaled_dot_product_attention(
                queries[None], keys[None], values[None], scale=scaling, enable_gqa=True
            )[0].transpose(0, 1)
        else:
            mask = _mask(span, sliding_window, query.device)
            found[0, rows] = _masked(queries, keys, values, mask, scoring).transpose(0, 1)
    return found, None


def make_mask(*arguments: Any, **options: Any) -> Any:
    """The mask that transformers makes before the layers, once per forward pass: none, since every span has its own."""
    return None if _step.spans else sdpa_mask(*arguments, **options)


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, make_mask)


def _mask(span: PackedSpan, window: int | None, device: torch.device) -> torch.Tensor:
    """A mask (queries, keys) of the positions that each of the span's tokens sees: up to its own, at most `window` of
    them."""
    mask = span.masks.get(window)
    if mask is None:
        end = span.start + span.last - span.first
        seen, own = torch.arange(end, device=device), torch.arange(span.start, end, device=device)[:, None]
        mask = seen <= own
        if window is not None:
            mask &= seen > own - window
        span.masks[window] = mask
    return mask


def _masked(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scoring: _Scoring
) -> torch.Tensor:
    """Attention (heads, queries, dimension) with a mask, for as many queries at a time as the mask's limit allows."""
    if scoring.is_plain:
        rows = max(1, MAX_MASK_ELEMENTS // keys.shape[1])
        parts = [
            scaled_dot_product_attention(
                queries[None, :, at : at + rows],
                keys[None],
                values[None],
                attn_mask=mask[at : at + rows],
                scale=scoring.scaling,
                enable_gqa=True,
            )[0]
            for at in range(0, queries.shape[1], rows)
        ]
    else:
        rows = max(1, MAX_MASK_ELEMENTS // (keys.shape[1] * queries.shape[0]))  # each head has scores of its own
        parts = [
            _unfused(queries[:, at : at + rows], keys, values, mask[at : at + rows], scoring)
            for at in range(0, queries.shape[1], rows)
        ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _unfused(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scoring: _Scoring
) -> torch.Tensor:
    """Attention with what the fused kernels do not do: scores squeezed by tanh, and a sink per head that takes part of
    the weight."""
    heads, tokens, dimension = queries.shape
    groups = heads // keys.shape[0]
    grouped = queries.reshape(keys.shape[0], groups * tokens, dimension)
    scores = (grouped @ keys.transpose(1, 2)).view(heads, tokens, -1) * (scoring.scaling or dimension**-0.5)
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    if scoring.sinks is not None:
        scores = torch.cat([scores, scoring.sinks.view(heads, 1, 1).expand(heads, tokens, 1)], dim=-1)
    weights = torch.softmax(scores.float(), dim=-1).to(values.dtype)[..., : keys.shape[1]]
    return (weights.reshape(keys.shape[0], groups * tokens, -1) @ values).view(heads, tokens, -1)
