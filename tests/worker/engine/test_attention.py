"""Packed attention is each sequence's own attention, whatever else is in the row, in whatever pieces it comes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from p2pnet.worker.engine import attention
from p2pnet.worker.engine.attention import (
    MAX_MASK_ELEMENTS,
    PackedSpan,
    UnsupportedAttention,
    attend,
    make_mask,
    packed,
)
from p2pnet.worker.engine.kv_store import Kv
from p2pnet.worker.engine.memory import whole_blocks

DIMENSION = 8
LAYER = SimpleNamespace(layer_idx=0)


@dataclass(frozen=True)
class Kind:
    """Of attention: what models ask for."""

    heads: int = 4
    kv_heads: int = 2
    window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False
    scaling: float | None = None
    value_dimension: int = DIMENSION

    @property
    def sinks(self) -> torch.Tensor | None:
        return torch.linspace(-1, 2, self.heads) if self.has_sinks else None


KINDS = {
    "plain": Kind(),
    "every head its own": Kind(kv_heads=4),
    "one for all": Kind(kv_heads=1),
    "scaled": Kind(scaling=0.9),
    "values of another width": Kind(value_dimension=5),
    "a window": Kind(window=4),
    "a window of one": Kind(window=1),
    "a window longer than all": Kind(window=1000),
    "softcap": Kind(softcap=1.5),
    "softcap and window": Kind(softcap=1.5, window=4, scaling=0.7),
    "sinks": Kind(has_sinks=True),
    "sinks and window": Kind(has_sinks=True, window=4),
}


@dataclass(frozen=True)
class Inputs:
    """Of one sequence: (heads, tokens, dimension)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


def inputs(kind: Kind, tokens: int, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    return Inputs(
        torch.randn(kind.heads, tokens, DIMENSION, generator=generator) * 2,
        torch.randn(kind.kv_heads, tokens, DIMENSION, generator=generator),
        torch.randn(kind.kv_heads, tokens, kind.value_dimension, generator=generator),
    )


def by_definition(kind: Kind, given: Inputs) -> torch.Tensor:
    """(tokens, heads, dimension): softmax over what each token sees, written out."""
    tokens, groups = given.query.shape[1], kind.heads // kind.kv_heads
    keys, values = (each.repeat_interleave(groups, 0).double() for each in (given.key, given.value))
    scores = given.query.double() @ keys.transpose(1, 2) * (kind.scaling or 1 / math.sqrt(DIMENSION))
    if kind.softcap is not None:
        scores = kind.softcap * torch.tanh(scores / kind.softcap)
    for own in range(tokens):
        for seen in range(tokens):
            if seen > own or (kind.window is not None and own - seen >= kind.window):
                scores[:, own, seen] = -math.inf
    if kind.sinks is not None:
        scores = torch.cat([scores, kind.sinks.double().view(-1, 1, 1).expand(-1, tokens, 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :tokens]
    return (weights @ values).transpose(0, 1).float()


def attended(kind: Kind, row: list[tuple[Inputs, int, int, Kv]]) -> list[torch.Tensor]:
    """Of some sequences, the tokens from the first to the second number, in one row."""
    spans, first = [], 0
    for _, start, end, kv in row:
        spans.append(PackedSpan(first, first + end - start, start, kv))
        first += end - start
    query, key, value = (
        torch.cat([getattr(each, name)[:, start:end] for each, start, end, _ in row], dim=1)[None]
        for name in ("query", "key", "value")
    )
    with packed(spans):
        found, weights = attend(
            LAYER, query, key, value, None, kind.scaling, 0.0, kind.window, kind.softcap, kind.sinks
        )
    assert weights is None
    return list(found[0].split([span.last - span.first for span in spans]))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_sequences_in_one_row_in_random_pieces(kind: Kind, seed: int) -> None:
    rng = random.Random(seed)
    sequences = [inputs(kind, length, seed * 10 + length) for length in (1, 7, 20, 13)]
    kvs = [Kv(64) for _ in sequences]
    done = [0] * len(sequences)
    found: list[list[torch.Tensor]] = [[] for _ in sequences]
    while any(at < each.query.shape[1] for at, each in zip(done, sequences, strict=True)):
        chosen, row = [], []
        for index, each in enumerate(sequences):
            left = each.query.shape[1] - done[index]
            if left and rng.random() < 0.7:
                end = done[index] + rng.choice([1, 1, rng.randint(1, left)])
                chosen.append(index)
                row.append((each, done[index], end, kvs[index]))
        if row:
            for index, (_, _, end, _), output in zip(chosen, row, attended(kind, row), strict=True):
                found[index].append(output)
                done[index] = end
    for pieces, each in zip(found, sequences, strict=True):
        torch.testing.assert_close(torch.cat(pieces), by_definition(kind, each), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [Kind(1, 1), Kind(2, 1, softcap=1.5), Kind(1, 1, window=3000)], ids=str)
def test_a_mask_beyond_the_limit_changes_nothing(kind: Kind) -> None:
    """4,000 new tokens after 2,000: too many for one call."""
    tokens, start = 6000, 2000
    assert tokens * (tokens - start) > MAX_MASK_ELEMENTS
    given = inputs(kind, tokens, 1)
    kv = Kv(whole_blocks(tokens))
    kv.write(0, 0, given.key[:, :start], given.value[:, :start])
    whole = attended(kind, [(given, start, tokens, kv)])[0]
    for at in (start, 3000, 4795, 4796, tokens - 1):
        alone = attended(kind, [(given, at, at + 1, kv)])[0]
        torch.testing.assert_close(whole[at - start : at - start + 1], alone, atol=1e-5, rtol=1e-4)


def test_masks_are_made_once_for_all_layers() -> None:
    span = PackedSpan(0, 5, 3, Kv(64))
    one = attention._mask(span, 4, torch.device("cpu"))
    assert attention._mask(span, 4, torch.device("cpu")) is one
    assert one.tolist() == [[own - 4 < seen <= own for seen in range(8)] for own in range(3, 8)]
    assert attention._mask(span, None, torch.device("cpu")).tolist() == [
        [seen <= own for seen in range(8)] for own in range(3, 8)
    ]


def test_a_model_with_a_mask_of_its_own_is_refused() -> None:
    given = inputs(Kind(), 4, 1)
    arguments = (LAYER, given.query[None], given.key[None], given.value[None])
    with packed([PackedSpan(0, 4, 0, Kv(64))]), pytest.raises(UnsupportedAttention):
        attend(*arguments, torch.zeros(1, 1, 4, 4))
    with packed([PackedSpan(0, 4, 0, Kv(64))]), pytest.raises(UnsupportedAttention):
        attend(*arguments, None, position_bias=torch.zeros(1))


def test_outside_of_packed_it_is_plain_attention() -> None:
    kind = Kind(kv_heads=4)
    given = inputs(kind, 6, 2)
    layer = SimpleNamespace(layer_idx=0, is_causal=True, num_key_value_groups=1)
    found, _ = attend(layer, given.query[None], given.key[None], given.value[None], None)
    torch.testing.assert_close(found[0], by_definition(kind, given), atol=1e-5, rtol=1e-4)


def test_an_error_inside_leaves_nothing_set() -> None:
    with pytest.raises(ZeroDivisionError), packed([PackedSpan(0, 4, 0, Kv(64))]):
        assert make_mask() is None
        raise ZeroDivisionError
    assert not attention._step.spans
