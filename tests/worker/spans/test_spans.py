"""A model cut between any two layers gives what it gives whole, to the bit; what cannot be cut is refused with why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, Gemma2Config, Lfm2Config, Llama4TextConfig
from transformers.utils import logging as transformers_logging

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.checkpoint import INDEX_FILE, open_checkpoint
from p2pnet.worker.checkpoints.digest import HashCache, digest
from p2pnet.worker.checkpoints.manifest import MANIFEST_FILE, write_manifest
from p2pnet.worker.engine.kv_store import Kv
from p2pnet.worker.engine.runner import PackedRunner
from p2pnet.worker.engine.runner import Part as Work
from p2pnet.worker.spans.loading import Part, load_ends, load_span
from p2pnet.worker.spans.running import EndsRunner, SpanRunner, Stretch
from tests.checkpoints import ARCHITECTURES, build_checkpoint

PROMPTS = (list(range(5, 45)), list(range(100, 123)))
PIECES = ((0, 5), (5, 17), (17, 22), (22, 23))
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "vocab_size": 300,
    "initializer_range": 0.2,
}


@dataclass
class Whole:
    """A model in one piece, and the logits of all tokens of the prompts."""

    folder: Path
    cache: HashCache
    layers: int
    logits: torch.Tensor

    def span(self, first: int, last: int) -> Part:
        return load_span(self.folder, first, last, "cpu", "auto", self.cache)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    folder = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> Whole:
        if name == "gemma2":
            saved(Gemma2Config(**SHAPE, sliding_window=8), folder, name)
        elif not (folder / name).exists():
            build_checkpoint(name, folder / name)
        factory: Any = AutoModelForCausalLM
        model = factory.from_pretrained(folder / name, dtype=torch.float32).eval()
        runner, kvs = PackedRunner(model), [Kv(64) for _ in PROMPTS]
        logits = []
        for start, end in PIECES:
            works = [Work(ids[start:end], start, kv, end - start) for ids, kv in zip(PROMPTS, kvs, strict=True)]
            logits += runner.forward(works)
        return Whole(folder / name, HashCache(folder), model.config.num_hidden_layers, torch.cat(logits))

    return get


def saved(config: Any, folder: Path, name: str) -> Path:
    """A random model with somebody else's tokenizer."""
    factory: Any = AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        factory.from_config(config).save_pretrained(folder / name)
    tokenizer = build_checkpoint("llama", folder / f"{name} tokenizer")
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder / name)
    return folder / name


def logits_of(ends: EndsRunner, parts: list[Part]) -> torch.Tensor:
    """Of all tokens of the prompts, through one part after the other."""
    runners = [SpanRunner(part) for part in parts]
    kvs = [[Kv(64) for _ in PROMPTS] for _ in parts]
    logits = []
    for start, end in PIECES:
        row = ends.embed([i for ids in PROMPTS for i in ids[start:end]], list(range(start, end)) * len(PROMPTS))
        for part, runner, kv in zip(parts, runners, kvs, strict=True):
            stretches = [Stretch(start, end - start, each) for each in kv]
            row = runner.forward(row, stretches, part.first, part.last)
        logits.append(ends.logits(row))
    return torch.cat(logits)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gemma2"])
def test_cut_anywhere_the_logits_are_the_same_to_the_bit(whole: Callable[[str], Whole], name: str) -> None:
    model = whole(name)
    ends, loaded = load_ends(model.folder, "cpu", "auto", model.cache)
    runner = EndsRunner(ends)
    for cut in range(1, model.layers):
        parts = [model.span(0, cut), model.span(cut, model.layers)]
        assert torch.equal(logits_of(runner, parts), model.logits)
        assert {part.digest for part in parts} == {loaded.digest}


def test_a_layer_a_stage(whole: Callable[[str], Whole]) -> None:
    model = whole("gemma3")
    ends, _ = load_ends(model.folder, "cpu", "auto", model.cache)
    parts = [model.span(layer, layer + 1) for layer in range(model.layers)]
    assert torch.equal(logits_of(EndsRunner(ends), parts), model.logits)


def test_a_part_of_what_is_loaded_can_be_run(whole: Callable[[str], Whole]) -> None:
    """So that chains whose stages overlap are chains."""
    model = whole("llama")
    part = model.span(0, model.layers)
    runner, one_by_one = SpanRunner(part), SpanRunner(model.span(0, model.layers))
    row = torch.randn(5, part.width)
    kv, other = Kv(64), Kv(64)
    expected = runner.forward(row, [Stretch(0, 5, kv)], 0, model.layers)
    for layer in range(model.layers):
        row = one_by_one.forward(row, [Stretch(0, 5, other)], layer, layer + 1)
    assert torch.equal(row, expected)


def test_a_part_holds_its_own_tensors_and_speaks_of_the_whole_model(whole: Callable[[str], Whole]) -> None:
    model = whole("qwen2")
    parts = [model.span(0, 1), model.span(1, 3), load_ends(model.folder, "cpu", "auto", model.cache)[0]]
    names = [{name for name, _ in part.model.named_parameters()} for part in parts]
    norm = {"model.norm.weight"}
    assert [any("embed" in name or "head" in name for name in each) for each in names] == [False, False, True]
    assert names[0] & names[1] == names[0] & names[2] == norm
    assert {name.split(".")[2] for name in names[1] - norm} == {"1", "2"}
    checkpoint = open_checkpoint(model.folder)
    assert {part.digest for part in parts} == {digest(checkpoint, "float32", model.cache)}
    layer = SpanRunner(parts[0]).kv_bytes_per_token
    assert SpanRunner(parts[1]).kv_bytes_per_token == 2 * layer == 2 * 2 * 2 * 16 * 4
    kept = [runner.bytes_per_token - runner.kv_bytes_per_token for runner in map(SpanRunner, parts[:2])]
    assert kept == [parts[0].width * 4, 0]  # behind the last layer there is no stage that may lack it


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("bloom", BloomConfig(vocab_size=300, hidden_size=64, n_layer=4, n_head=4, seq_length=256), "by themselves"),
        ("llama4", Llama4TextConfig(**SHAPE, num_local_experts=2, attention_chunk_size=8), "chunked"),
        ("lfm2", Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"] * 2), "conv layers"),
    ],
)
def test_what_cannot_be_parted_is_refused_with_the_reason(tmp_path: Path, name: str, config: Any, reason: str) -> None:
    folder = saved(config, tmp_path, name)
    with pytest.raises(UsageError, match=reason) as refused:
        SpanRunner(load_span(folder, 0, 2, "cpu", "auto", HashCache(tmp_path)))
    assert "without --layers" in refused.value.fix


@pytest.mark.parametrize(("first", "last"), [(0, 4), (-1, 2), (2, 1), (3, 9)])
def test_layers_that_are_not_there_are_refused(tmp_path: Path, first: int, last: int) -> None:
    folder = build_checkpoint("llama", tmp_path / "llama")
    with pytest.raises(UsageError, match="has 3"):
        load_span(folder, first, last, "cpu", "auto", HashCache(tmp_path))


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = build_checkpoint("llama", tmp_path / "llama")
    with pytest.raises(UsageError, match="memory"):
        load_span(folder, 0, 1, "cpu", "auto", HashCache(tmp_path), available_bytes=100_000)
    assert load_span(folder, 0, 1, "cpu", "auto", HashCache(tmp_path), available_bytes=130_000).memory_bytes < 130_000


def manifested(folder: Path, into: Path, cache: HashCache) -> list[str]:
    """Copy a model without its weights, with a manifest; returns the names of the files with weights."""
    checkpoint = open_checkpoint(folder)
    write_manifest(folder, checkpoint.weights, cache.hash_files(list(checkpoint.weights)))
    shutil.copytree(folder, into, ignore=lambda _, names: [name for name in names if name.endswith(".safetensors")])
    return [path.name for path in checkpoint.weights]


def test_a_stage_needs_the_files_of_its_own_layers_alone(tmp_path: Path) -> None:
    """And knows all the same which model they are of."""
    folder, cache = build_checkpoint("llama", tmp_path / "whole"), HashCache(tmp_path)
    files = manifested(folder, tmp_path / "part", cache)
    assert len(files) > 3
    index = json.loads((folder / INDEX_FILE).read_bytes())["weight_map"]
    needed = {file for name, file in index.items() if ".layers.1." in name or name == "model.norm.weight"}
    assert needed < set(files)
    for name in needed:
        shutil.copy(folder / name, tmp_path / "part" / name)
    part, expected = (load_span(where, 1, 2, "cpu", "auto", cache) for where in (tmp_path / "part", folder))
    assert part.digest == expected.digest == digest(open_checkpoint(folder), "float32", cache)
    row = torch.randn(3, part.width)
    found = [SpanRunner(each).forward(row, [Stretch(0, 3, Kv(64))], 1, 2) for each in (part, expected)]
    assert torch.equal(*found)
    with pytest.raises(UsageError, match="lacks tensors"):
        load_span(tmp_path / "part", 0, 2, "cpu", "auto", cache)


def test_a_file_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    folder, cache = build_checkpoint("llama", tmp_path / "whole"), HashCache(tmp_path)
    files = manifested(folder, tmp_path / "part", cache)
    for name in files[1:]:
        shutil.copy(folder / name, tmp_path / "part" / name)
    shutil.copy(folder / files[0], tmp_path / "part" / files[0])
    with (tmp_path / "part" / files[0]).open("ab") as file:
        file.write(b" ")
    with pytest.raises(UsageError, match="is not the file that"):
        digest(open_checkpoint(tmp_path / "part", may_be_partial=True), "float32", cache)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"weights": {"a": "b"}}', b"\xff"])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = build_checkpoint("llama", tmp_path / "llama")
    (folder / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(UsageError, match="is damaged"):
        open_checkpoint(folder, may_be_partial=True)
    assert open_checkpoint(folder).manifest is None


def test_without_a_manifest_no_file_may_be_missing(tmp_path: Path) -> None:
    folder = build_checkpoint("llama", tmp_path / "llama")
    open_checkpoint(folder).weights[0].unlink()
    with pytest.raises(UsageError, match="lacks"):
        load_span(folder, 0, 1, "cpu", "auto", HashCache(tmp_path))
