"""The runner gives transformers' logits, however the tokens are cut into steps; and the store's accounts hold."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from p2pnet.worker.engine.kv_store import Kv
from p2pnet.worker.engine.runner import Part
from p2pnet.worker.engine.scheduler import Job, Scheduler, SchedulerLimits
from p2pnet.worker.gguf.context import ContextFailed, bytes_per_token
from p2pnet.worker.gguf.rows import CPU_LIMITS
from p2pnet.worker.gguf.runner import LlamaRunner
from tests.worker.gguf.conftest import CELLS, SEQUENCES, Llama

IDS = [7 + 31 * index % 400 for index in range(90)]
OTHER = [11 + 17 * index % 400 for index in range(70)]
CLOSE = 0.05
"""Keys and values are kept in float16; the logits are spread by 1.6."""


def opened(llama: Llama, tokens: int = 128) -> Kv:
    kv = llama.store.open(tokens)
    assert kv is not None
    return kv


def last(logits: list[torch.Tensor]) -> list[int]:
    return [int(rows[-1].argmax()) for rows in logits]


def test_the_logits_are_those_of_transformers(llama: Llama, folder: Path) -> None:
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(torch.tensor([IDS])).logits[0]
    (found,) = llama.runner.forward([Part(IDS, 0, opened(llama), logits=len(IDS))])
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=CLOSE)


def test_pieces_side_by_side_are_as_the_whole_alone(llama: Llama) -> None:
    expected = [llama.runner.forward([Part(ids, 0, opened(llama))])[0][-1] for ids in (IDS, OTHER)]
    kvs = [opened(llama), opened(llama)]
    ends = (0, 5, 11, 40, 69, 70)
    for start, end in pairwise(ends):
        parts = [Part(ids[start:end], start, kv) for ids, kv in zip((IDS, OTHER), kvs, strict=True)]
        found = llama.runner.forward(parts)
    assert torch.allclose(found[1][-1], expected[1], atol=CLOSE)
    (rest,) = llama.runner.forward([Part(IDS[70:], 70, kvs[0])])
    assert torch.allclose(rest[-1], expected[0], atol=CLOSE)


def test_only_the_rows_that_are_wanted_come_back(llama: Llama) -> None:
    one, other = opened(llama), opened(llama)
    found = llama.runner.forward([Part(IDS, 0, one, logits=3), Part(OTHER, 0, other, logits=0)])
    assert [len(rows) for rows in found] == [3, 0]
    (again,) = llama.runner.forward([Part(OTHER[-2:], len(OTHER) - 2, other, logits=2)])
    assert len(again) == 2


def test_tokens_may_be_computed_again(llama: Llama) -> None:
    kv = opened(llama)
    (first,) = llama.runner.forward([Part(IDS, 0, kv)])
    llama.runner.forward([Part([3, 4, 5], 20, kv)])
    (again,) = llama.runner.forward([Part(IDS[20:], 20, kv)])
    assert torch.allclose(first, again, atol=CLOSE)


def test_a_beginning_is_shared_and_then_left_alone(llama: Llama) -> None:
    source, target = opened(llama), opened(llama)
    llama.runner.forward([Part(IDS, 0, source)])
    assert llama.store.copy(source, target, 64)
    (found,) = llama.runner.forward([Part(IDS[64:], 64, target)])
    llama.store.close(source)
    llama.runner.forward([Part(OTHER, 0, opened(llama))])  # where the source was
    (again,) = llama.runner.forward([Part(IDS[-1:], len(IDS) - 1, target)])
    assert torch.allclose(found[-1], again[-1], atol=CLOSE)


def test_memory_is_counted_in_tokens_and_in_sequences(llama: Llama) -> None:
    store = llama.store
    rooms = [opened(llama, 64) for _ in range(SEQUENCES)]
    assert (store.free_tokens, store.open(64)) == (0, None)  # there are cells, but no further sequence
    assert store.grow(rooms[0], 128)
    assert not store.grow(rooms[1], CELLS)
    store.close(rooms[0])
    assert store.free_tokens == CELLS - 3 * 64


def test_kept_prefixes_give_their_sequences_up(llama: Llama) -> None:
    """More answers come and go than there are sequences; each leaves its prefix, and none waits for ever."""
    scheduler = Scheduler(llama.store, SchedulerLimits(), shares_prefixes=True)
    for number in range(3 * SEQUENCES):
        job = Job([number * 7 + 1, *IDS[:40]], max_length=64)
        scheduler.add(job)
        (work,) = scheduler.plan()
        assert isinstance(job.kv, Kv)
        llama.runner.forward([Part(job.ids, 0, job.kv)])
        job.computed += work.count
        scheduler.remove(job)


def test_a_full_context_is_used_to_its_last_cell(llama: Llama) -> None:
    rooms = [opened(llama, CELLS // SEQUENCES) for _ in range(SEQUENCES)]
    ids = [5] * (CELLS // SEQUENCES)
    for start in range(0, len(ids), 32):
        llama.runner.forward([Part(ids[start : start + 32], start, kv) for kv in rooms])
    for _ in range(3):
        llama.store.close(rooms.pop())
        rooms.append(opened(llama, CELLS // SEQUENCES))
        for start in range(0, len(ids), 64):
            llama.runner.forward([Part(ids[start : start + 64], start, rooms[-1])])


def test_a_step_that_fails_is_repeated(llama: Llama) -> None:
    kv = opened(llama)
    (expected,) = llama.runner.forward([Part(IDS, 0, kv)])
    with pytest.raises(ContextFailed, match="llama_decode ended with"):
        llama.runner.forward([Part([10_000_000], len(IDS), kv)])
    (again,) = llama.runner.forward([Part(IDS[-1:], len(IDS) - 1, kv)])
    assert torch.allclose(expected, again, atol=CLOSE)


def test_models_that_cannot_go_back_run_alone(llama: Llama) -> None:
    assert llama.runner.is_packed
    assert not LlamaRunner(llama.store.context, False, CPU_LIMITS, SEQUENCES).is_packed


def test_what_a_token_takes(llama: Llama) -> None:
    two_halves_of_three_layers = 2 * 3 * 2 * 16 * 2
    assert two_halves_of_three_layers <= bytes_per_token(llama.model, threads=1) <= two_halves_of_three_layers + 16


def test_what_is_beside_a_token_does_not_change_a_bit_of_it(quantized: Llama) -> None:
    """An answer alone, beside another, and taken up again: the same logits. With weights that are not quantized they
    differ in the fifth digit."""

    def alone() -> list[torch.Tensor]:
        kv = opened(quantized)
        found = quantized.runner.forward([Part(IDS[:40], 0, kv, 1, prompt_tokens=40)])
        for position in range(40, 52):
            found += quantized.runner.forward([Part(IDS[position : position + 1], position, kv, 1, prompt_tokens=40)])
        quantized.store.close(kv)
        return found

    expected = alone()
    kv, other = opened(quantized), opened(quantized)
    parts = [Part(IDS[:30], 0, kv, 0, prompt_tokens=40), Part(OTHER[:12], 0, other, 1, prompt_tokens=12)]
    quantized.runner.forward(parts)
    next_one = Part(OTHER[12:13], 12, other, 1, prompt_tokens=12)
    (found, _) = quantized.runner.forward([Part(IDS[30:40], 30, kv, 1, prompt_tokens=40), next_one])
    assert torch.equal(found, expected[0])
    for position in range(40, 50):
        beside = Part(OTHER[position - 27 : position - 26], position - 27, other, 1, prompt_tokens=12)
        mine = Part(IDS[position : position + 1], position, kv, 1, prompt_tokens=40)
        found, _ = quantized.runner.forward([mine, beside])
        assert torch.equal(found, expected[position - 39])
    resumed = opened(quantized)
    (found,) = quantized.runner.forward([Part(IDS[:52], 0, resumed, 1, prompt_tokens=40)])
    assert torch.equal(found, expected[-1])
