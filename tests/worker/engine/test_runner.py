"""Runners give what the model itself gives: in any pieces, beside anybody, for every kind of model; or they refuse."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    Gemma2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    Lfm2Config,
    Llama4TextConfig,
    MambaConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    SmolLM3Config,
)
from transformers.utils import logging as transformers_logging

from p2pnet.worker.engine.kv_store import Kv, KvStore
from p2pnet.worker.engine.runner import (
    NoCache,
    PackedRunner,
    Part,
    Runner,
    SequentialRunner,
    kv_bytes_per_token,
    make_runner,
)
from tests.checkpoints import ARCHITECTURES, build_checkpoint

VOCABULARY = 300
WINDOW = 8
"""Shorter than a chunk, and than the prompts; those of the checkpoints are 16."""
LENGTHS = (1, 2, 40, 23)
TOLERANCE = 1e-3
"""Of the spread of the logits, in float32."""

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = {**SHAPE, "intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 2.0,
    "original_max_position_embeddings": 128,
}

PACKED: dict[str, Callable[[], Any]] = {
    "gemma2": lambda: Gemma2Config(**GATED, sliding_window=WINDOW),
    "gpt_oss": lambda: GptOssConfig(
        **GATED, sliding_window=WINDOW, num_local_experts=4, num_experts_per_tok=2, rope_parameters=YARN
    ),
    "gpt-j": lambda: GPTJConfig(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, n_positions=256, initializer_range=0.2
    ),
    "phi3": lambda: Phi3Config(**GATED),
    "phi3 with a long window": lambda: Phi3Config(**GATED, sliding_window=200),
    "opt": lambda: OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=64),
    "gpt_neox": lambda: GPTNeoXConfig(**SHAPE, intermediate_size=96),
    "cohere": lambda: CohereConfig(**GATED, tie_word_embeddings=False),
    "cohere2": lambda: Cohere2Config(**GATED, sliding_window=WINDOW),
    "smollm3": lambda: SmolLM3Config(**GATED),
    "olmo2": lambda: Olmo2Config(**GATED),
}
ONE_AT_A_TIME: dict[str, Callable[[], Any]] = {
    "bloom, with a bias of its own": lambda: BloomConfig(
        vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.2
    ),
    "llama 4, in chunks": lambda: Llama4TextConfig(**GATED, num_local_experts=2, attention_chunk_size=WINDOW),
    "lfm2, with convolutions": lambda: Lfm2Config(**GATED, layer_types=["conv", "full_attention"] * 2),
}
KV_BYTES = {
    **dict.fromkeys(ARCHITECTURES, 3 * 2 * 2 * 16 * 4),
    **dict.fromkeys(PACKED, 4 * 2 * 2 * 16 * 4),
    "gpt2": 3 * 2 * 64 * 4,
    "opt": 4 * 2 * 64 * 4,
    "gpt_neox": 4 * 2 * 64 * 4,
    "bloom, with a bias of its own": 2 * 2 * 64 * 4,
    "gpt-j": 2 * 2 * 64 * 4,
    "llama 4, in chunks": 4 * 2 * 2 * 16 * 4,
    "lfm2, with convolutions": 2 * 2 * 2 * 16 * 4,
}
"""Layers, keys and values, heads, dimension, bytes."""

Logits = list[torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()


def random_model(config: Any) -> Any:
    factory: Any = AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return factory.from_config(config).eval()


@pytest.fixture(scope="module")
def run_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Runner, Any, Logits]]:
    """Each with its runner, and the logits of all prompts as the model itself gives them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    known: dict[str, tuple[Runner, Any, Logits]] = {}

    def get(name: str) -> tuple[Runner, Any, Logits]:
        if name not in known:
            model = loaded(name, folder)
            with torch.inference_mode():
                expected = [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in prompts(model)]
            known[name] = (make_runner(model), model, expected)
        return known[name]

    return get


def loaded(name: str, folder: Path) -> Any:
    if name in ARCHITECTURES:
        factory: Any = AutoModelForCausalLM
        return factory.from_pretrained(build_checkpoint(name, folder / name), dtype=torch.float32).eval()
    return random_model({**PACKED, **ONE_AT_A_TIME}[name]())


def prompts(model: Any) -> list[list[int]]:
    rng = random.Random(5)
    size = min(VOCABULARY, model.get_input_embeddings().weight.shape[0])
    return [[rng.randrange(size) for _ in range(length)] for length in LENGTHS]


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    if len(expected):
        assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def run_in_random_pieces(runner: Runner, model: Any, expected: Logits, seed: int) -> None:
    """All prompts, joining and pausing at random, some logits wanted of each piece."""
    rng = random.Random(seed)
    ids, kvs, done = prompts(model), [Kv(64) for _ in LENGTHS], [0] * len(LENGTHS)
    while any(at < length for at, length in zip(done, LENGTHS, strict=True)):
        chosen, parts = [], []
        for index, length in enumerate(LENGTHS):
            if done[index] < length and rng.random() < 0.7:
                count = rng.choice([1, rng.randint(1, min(17, length - done[index]))])
                wanted = rng.choice([0, 1, count, rng.randint(0, count)])
                chosen.append(index)
                parts.append(Part(ids[index][done[index] : done[index] + count], done[index], kvs[index], wanted))
        if not parts:
            continue
        for index, part, logits in zip(chosen, parts, runner.forward(parts), strict=True):
            end = part.start + len(part.ids)
            check(logits, expected[index][end - part.logits : end])
            done[index] = end


Models = Callable[[str], tuple[Runner, Any, Logits]]


@pytest.mark.parametrize("name", [*ARCHITECTURES, *PACKED])
def test_packed(run_models: Models, name: str) -> None:
    runner, model, expected = run_models(name)
    assert isinstance(runner, PackedRunner)
    for seed in range(3):
        run_in_random_pieces(runner, model, expected, seed)


@pytest.mark.parametrize("name", ONE_AT_A_TIME)
def test_one_at_a_time(run_models: Models, name: str) -> None:
    runner, model, expected = run_models(name)
    assert isinstance(runner, SequentialRunner)
    for seed in range(3):
        run_in_random_pieces(runner, model, expected, seed)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *PACKED, *ONE_AT_A_TIME])
def test_kv_bytes_per_token(run_models: Models, name: str) -> None:
    runner, model, _ = run_models(name)
    assert kv_bytes_per_token(runner, model) == KV_BYTES[name]


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gemma2", "gpt_oss"])
def test_a_copied_prefix_goes_on_as_if_it_were_its_own(run_models: Models, name: str) -> None:
    runner, model, expected = run_models(name)
    store = KvStore(640)
    source, target = store.open(64), store.open(128)
    assert source is not None and target is not None
    ids = prompts(model)[2]
    runner.forward([Part(ids, 0, source)])
    assert store.copy(source, target, 32)
    assert store.grow(source, 100)
    both = [Part(ids[32:], 32, target, 8), Part(ids[39:], 39, source, 1)]
    for logits, rows in zip(runner.forward(both), (8, 1), strict=True):
        check(logits, expected[2][-rows:])


@pytest.mark.parametrize("name", ["llama", "bloom, with a bias of its own"])
def test_what_gave_its_memory_up_is_computed_again(run_models: Models, name: str) -> None:
    runner, model, expected = run_models(name)
    ids = prompts(model)[2]
    store = KvStore(640)
    for end in (10, 40):
        kv = store.open(64)
        assert kv is not None
        check(runner.forward([Part(ids[:end], 0, kv)])[0], expected[2][end - 1 : end])
        store.close(kv)


def test_nobody_wants_logits(run_models: Models) -> None:
    runner, model, _ = run_models("llama")
    found = runner.forward([Part(ids, 0, Kv(64), 0) for ids in prompts(model)])
    assert [len(logits) for logits in found] == [0] * len(LENGTHS)


def test_a_model_that_takes_no_notice_of_its_cache_is_refused() -> None:
    """It would answer every token as if it were the first."""
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, initializer_range=0.2)
    with pytest.raises(NoCache, match="does not go on from its cache"):
        make_runner(random_model(config))


def test_a_model_whose_logits_are_not_numbers_is_refused() -> None:
    model = random_model(OPTConfig(**{**SHAPE, "num_hidden_layers": 1}, ffn_dim=64, word_embed_proj_dim=64))
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(ValueError, match="not numbers"):
        make_runner(model)
