"""Keys and values: what is written stays, whatever grows and is copied, and every token of memory is accounted for."""

from __future__ import annotations

import random

import pytest
import torch

from p2pnet.worker.engine.kv_store import Kv, KvStore

HEADS, DIMENSION = 2, 4
ABSURD = 1 << 45
"""So many heads are more bytes than a machine can address."""


def some(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(HEADS, tokens, DIMENSION, generator=torch.Generator().manual_seed(seed))


def opened(store: KvStore, tokens: int) -> Kv:
    kv = store.open(tokens)
    assert kv is not None
    return kv


def absurd_layer(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes no memory as it is, and cannot be grown."""
    buffer = torch.zeros(1, tokens, 1).expand(ABSURD, tokens, 1)
    return buffer, buffer


@pytest.mark.parametrize(
    ("tokens", "capacity"), [(0, 0), (1, 64), (63, 64), (64, 64), (65, 128), (640, 640), (641, None), (1 << 40, None)]
)
def test_rooms_are_whole_blocks(tokens: int, capacity: int | None) -> None:
    store = KvStore(700)
    assert store.total_tokens == store.free_tokens == 640
    kv = store.open(tokens)
    assert (None if kv is None else kv.capacity) == capacity
    assert store.free_tokens == 640 - (capacity or 0)


def test_what_is_written_is_read_in_place() -> None:
    kv = opened(KvStore(640), 100)
    keys, values = some(10, 1), some(10, 2)
    first = kv.write(0, 0, keys[:, :7], values[:, :7])
    assert torch.equal(first[0], keys[:, :7]) and torch.equal(first[1], values[:, :7])
    both = kv.write(0, 7, keys[:, 7:], values[:, 7:])
    assert torch.equal(both[0], keys) and torch.equal(both[1], values)
    assert both[0].data_ptr() == first[0].data_ptr(), "not copied"
    again = kv.write(0, 5, keys[:, :2], values[:, :2])
    assert torch.equal(again[0], torch.cat([keys[:, :5], keys[:, :2]], dim=1)), "written over"


def test_keys_and_values_of_different_width_and_layers_of_different_heads() -> None:
    kv = opened(KvStore(640), 64)
    kv.write(0, 0, torch.ones(2, 3, 8), torch.ones(2, 3, 5))
    kv.write(3, 0, torch.ones(1, 3, 4), torch.ones(1, 3, 4))
    assert {layer: (tuple(k.shape), tuple(v.shape)) for layer, (k, v) in kv.layers.items()} == {
        0: ((2, 64, 8), (2, 64, 5)),
        3: ((1, 64, 4), (1, 64, 4)),
    }


def test_growing_keeps_what_is_there() -> None:
    store = KvStore(640)
    kv = opened(store, 64)
    for layer in range(3):
        kv.write(layer, 0, some(64, layer), some(64, layer + 10))
    assert store.grow(kv, 65)
    assert (kv.capacity, store.free_tokens) == (128, 512)
    for layer in range(3):
        keys, values = kv.write(layer, 64, some(1, 7), some(1, 8))
        assert torch.equal(keys, torch.cat([some(64, layer), some(1, 7)], dim=1))
        assert torch.equal(values, torch.cat([some(64, layer + 10), some(1, 8)], dim=1))


def test_growing_by_nothing_and_too_much() -> None:
    store = KvStore(640)
    kv = opened(store, 64)
    kv.write(0, 0, some(64), some(64))
    assert store.grow(kv, 64)
    assert (kv.capacity, store.free_tokens) == (64, 576)
    assert not store.grow(kv, 641)
    assert (kv.capacity, store.free_tokens) == (64, 576)
    assert torch.equal(kv.write(0, 64, some(0), some(0))[0], some(64))


def test_copying_gives_the_first_tokens_and_no_more() -> None:
    store = KvStore(640)
    source, target = opened(store, 64), opened(store, 128)
    source.write(0, 0, some(50), some(50, 1))
    assert store.copy(source, target, 32)
    source.write(0, 0, some(50, 5), some(50, 6))
    keys, values = target.write(0, 32, some(1, 2), some(1, 3))
    assert torch.equal(keys, torch.cat([some(50)[:, :32], some(1, 2)], dim=1))
    assert torch.equal(values, torch.cat([some(50, 1)[:, :32], some(1, 3)], dim=1))


def test_closing_gives_all_back() -> None:
    store = KvStore(640)
    kv = opened(store, 300)
    kv.write(0, 0, some(5), some(5))
    kv.cache = object()
    store.close(kv)
    assert (kv.capacity, kv.layers, kv.cache, store.free_tokens) == (0, {}, None, 640)


def test_a_machine_without_the_memory_to_grow() -> None:
    store = KvStore(640)
    kv = opened(store, 64)
    kv.write(0, 0, some(64), some(64, 1))
    kv.layers[1] = absurd_layer(64)
    assert not store.grow(kv, 300)
    assert (kv.capacity, store.free_tokens) == (64, 576)
    assert torch.equal(kv.write(0, 64, some(0), some(0))[0], some(64)), "what was there is still there"


def test_growing_less_after_growing_more_was_too_much() -> None:
    """The first layer has grown by then."""
    store = KvStore(640)
    kv = opened(store, 64)
    kv.write(0, 0, some(64), some(64, 1))
    kv.layers[1] = absurd_layer(64)
    assert not store.grow(kv, 300)
    kv.layers[1] = (some(64, 2), some(64, 3))
    assert store.grow(kv, 128)
    assert (kv.capacity, store.free_tokens) == (128, 512)
    assert torch.equal(kv.write(0, 64, some(64, 7), some(64))[0], torch.cat([some(64), some(64, 7)], dim=1))
    assert torch.equal(kv.write(1, 64, some(64, 7), some(64))[0], torch.cat([some(64, 2), some(64, 7)], dim=1))


def test_a_machine_without_the_memory_to_copy() -> None:
    store = KvStore(640)
    source, target = opened(store, 64), opened(store, 64)
    source.write(0, 0, some(64), some(64))
    source.layers[1] = absurd_layer(64)
    assert not store.copy(source, target, 32)
    assert target.layers == {}
    assert torch.equal(source.write(0, 64, some(0), some(0))[0], some(64))


def test_accounts_over_random_use() -> None:
    rng = random.Random(3)
    store = KvStore(2000)
    rooms: list[Kv] = []
    for _ in range(2000):
        action = rng.random()
        if action < 0.5:
            kv = store.open(rng.randrange(400))
            rooms.extend([] if kv is None else [kv])
        elif rooms and action < 0.8:
            kv = rng.choice(rooms)
            store.grow(kv, rng.randrange(kv.capacity, kv.capacity + 300))
        elif rooms:
            store.close(rooms.pop(rng.randrange(len(rooms))))
        assert store.free_tokens == store.total_tokens - sum(kv.capacity for kv in rooms)
        assert store.free_tokens >= 0
    for kv in rooms:
        store.close(kv)
    assert store.free_tokens == store.total_tokens == 1984
