"""Weights in 8 and 4 bits: close to the original, as small as said, and refused in words where they cannot be had."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GptOssConfig

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.checkpoint import open_checkpoint
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.footprint import planned_bytes
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model
from p2pnet.worker.checkpoints.quantization import QuantizationPlan, choose_quantization
from tests.checkpoints import build_checkpoint, byte_level_tokenizer

TEXT = "Once upon a time there was a small network in which every peer helped the others, and the dog did not mind."


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders that no test may change."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> Path:
        if name == "tiny":
            return find_folder("tiny")
        return folder / name if (folder / name).exists() else build_checkpoint(name, folder / name)

    return get


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedModel]:
    def load(folder: Path, quantization: str = "none", dtype: str = "float32", **options: Any) -> LoadedModel:
        return load_model(folder, "cpu", dtype, HashCache(tmp_path), quantization=quantization, **options)

    return load


def logits_of(loaded: LoadedModel, text: str = TEXT) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = loaded.model(torch.tensor([loaded.tokenizer(text)["input_ids"]])).logits
    return found.float()


def is_close(found: torch.Tensor, expected: torch.Tensor, error: float, same: float) -> bool:
    """`error` is of the norm, `same` the share of positions with the same best token."""
    is_same = (found.argmax(-1) == expected.argmax(-1)).float().mean()
    return bool((found - expected).norm() <= error * expected.norm() and is_same >= same)


CLOSENESS = [
    ("tiny", "8bit", "float32", "bnb-int8", 0.05, 0.9),
    ("tiny", "8bit", "bfloat16", "bnb-int8", 0.05, 0.9),
    ("tiny", "4bit", "float32", "bnb-nf4", 0.5, 0.6),
    ("tiny", "4bit", "bfloat16", "bnb-nf4", 0.5, 0.6),
    ("gpt2", "8bit", "float32", "bnb-int8", 0.06, 0.85),
    ("gpt2", "4bit", "float32", "bnb-nf4", 0.5, 0.4),
    ("llama", "8bit", "float32", "bnb-int8", 0.12, 0.7),
    ("mixtral", "8bit", "bfloat16", "bnb-int8", 0.3, 0.6),
]
"""The worst error seen is about half of each. Only `tiny` was trained; random weights of this width magnify errors."""


@pytest.mark.parametrize(("name", "quantization", "dtype", "label", "error", "same"), CLOSENESS)
def test_quantized_while_loading(
    checkpoints: Callable[[str], Path],
    load: Callable[..., LoadedModel],
    name: str,
    quantization: str,
    dtype: str,
    label: str,
    error: float,
    same: float,
) -> None:
    exact, small = load(checkpoints(name), dtype=dtype), load(checkpoints(name), quantization, dtype)
    assert (small.quantization, small.dtype) == (label, dtype)
    assert small.digest != exact.digest
    assert small.memory_bytes < exact.memory_bytes
    assert is_close(logits_of(small), logits_of(exact), error, same)


@pytest.mark.parametrize(("quantization", "bytes_per_weight"), [("8bit", 1), ("4bit", 0.5625)])
@pytest.mark.parametrize("name", ["tiny", "gpt2", "llama", "qwen3_moe"])
def test_memory_is_known_before_loading(
    checkpoints: Callable[[str], Path],
    load: Callable[..., LoadedModel],
    name: str,
    quantization: str,
    bytes_per_weight: float,
) -> None:
    """What is planned is what is then measured, but for the scales of rows; a byte less than that is refused."""
    folder = checkpoints(name)
    planned = planned_bytes(load(folder).model, 4, bytes_per_weight)
    with pytest.raises(UsageError, match="GB of memory"):
        load(folder, quantization, available_bytes=planned - 1)
    loaded = load(folder, quantization, available_bytes=planned)
    assert loaded.memory_bytes == pytest.approx(planned, rel=0.02)


def test_an_answer_does_not_depend_on_the_others_in_the_batch(
    checkpoints: Callable[[str], Path], load: Callable[..., LoadedModel]
) -> None:
    """With the outliers that bitsandbytes looks for in the whole batch, this differs by 0.2."""
    loaded = load(checkpoints("llama"), "8bit")
    ids = torch.randint(5, 400, (8, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = loaded.model(ids).logits
        alone = torch.cat([loaded.model(row[None]).logits for row in ids])
    assert (together - alone).abs().max() < 1e-4


def test_nothing_is_logged_at_each_step(
    checkpoints: Callable[[str], Path], load: Callable[..., LoadedModel], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(checkpoints("gpt2"), "8bit")
    with caplog.at_level(logging.INFO):
        logits_of(loaded)
    assert not caplog.records


BITS_AND_BYTES = [
    ("bnb-int8", {"load_in_8bit": True}),
    ("bnb-nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    ("bnb-fp4", {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
]


@pytest.mark.parametrize(("label", "settings"), BITS_AND_BYTES, ids=[case[0] for case in BITS_AND_BYTES])
def test_a_checkpoint_of_bitsandbytes(
    checkpoints: Callable[[str], Path],
    load: Callable[..., LoadedModel],
    tmp_path: Path,
    label: str,
    settings: dict[str, Any],
) -> None:
    exact = load(checkpoints("gpt2"))
    quantized: Any = AutoModelForCausalLM.from_pretrained(
        checkpoints("gpt2"), dtype=torch.float32, quantization_config=BitsAndBytesConfig(**settings)
    )
    quantized.save_pretrained(tmp_path / "quantized")
    exact.tokenizer.save_pretrained(tmp_path / "quantized")
    loaded = load(tmp_path / "quantized")
    assert loaded.quantization == label
    assert loaded.memory_bytes < 0.6 * exact.memory_bytes
    assert is_close(logits_of(loaded), logits_of(exact), 0.6, 0.4)
    assert {module.state.threshold for module in loaded.model.modules() if hasattr(module, "state")} <= {0.0}
    with pytest.raises(UsageError, match="quantized already"):
        load(tmp_path / "quantized", "8bit")


def declare(folder: Path, **quantization_config: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization_config}))


FP8_BLOCK = 32


def to_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In blocks with a scale each, as DeepSeek's checkpoints are."""
    rows, columns = weight.shape
    blocks = weight.reshape(rows // FP8_BLOCK, FP8_BLOCK, columns // FP8_BLOCK, FP8_BLOCK)
    scales = blocks.abs().amax((1, 3), keepdim=True) / 448
    return (blocks / scales).reshape(rows, columns).to(torch.float8_e4m3fn), scales[:, 0, :, 0].contiguous()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_fp8_checkpoint_is_widened(
    checkpoints: Callable[[str], Path], load: Callable[..., LoadedModel], tmp_path: Path, dtype: str
) -> None:
    folder = build_checkpoint("qwen2", tmp_path / "fp8")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        tensors[name], tensors[f"{name}_scale_inv"] = to_fp8(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    declare(folder, quant_method="fp8", activation_scheme="dynamic", weight_block_size=[FP8_BLOCK, FP8_BLOCK])
    exact = load(checkpoints("qwen2"), dtype=dtype)
    with pytest.raises(UsageError, match="GB of memory"):
        load(folder, dtype=dtype, available_bytes=exact.memory_bytes - 1000)
    loaded = load(folder, dtype=dtype)
    assert (loaded.quantization, loaded.dtype, loaded.memory_bytes) == ("fp8", dtype, exact.memory_bytes)
    assert is_close(logits_of(loaded), logits_of(exact), 0.35, 0.5)


def test_an_mxfp4_checkpoint_is_widened(load: Callable[..., LoadedModel], tmp_path: Path) -> None:
    """As GPT-OSS has: two numbers a byte and a power of two for each 32 of them. Here all are one half."""
    tokenizer = byte_level_tokenizer()
    config = GptOssConfig(
        vocab_size=len(tokenizer),
        **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
        **{"max_position_embeddings": 512, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    )
    factory: Any = AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        factory.from_config(config).save_pretrained(tmp_path / "mxfp4")
    tokenizer.save_pretrained(tmp_path / "mxfp4")
    path = tmp_path / "mxfp4" / "model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.full((experts, outputs, inputs // 32, 16), 0x11, dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.full((experts, outputs, inputs // 32), 127, dtype=torch.uint8)
    save_file(tensors, path, metadata={"format": "pt"})
    declare(tmp_path / "mxfp4", quant_method="mxfp4")
    loaded = load(tmp_path / "mxfp4")
    assert (loaded.quantization, loaded.dtype) == ("mxfp4", "float32")
    assert (loaded.model.model.layers[0].mlp.experts.down_proj == 0.5).all()
    assert logits_of(loaded).isfinite().all()


EVERYTHING = {"accelerate", "bitsandbytes", "compressed_tensors", "gptqmodel", "optimum", "torchao"}
Own = Mapping[str, Any] | None

CHOSEN: list[tuple[str, Own, str, str]] = [
    ("none", None, "cpu", "none"),
    ("none", None, "mps", "none"),
    ("8bit", None, "cpu", "bnb-int8"),
    ("4bit", None, "cuda", "bnb-nf4"),
    ("none", {"quant_method": "bitsandbytes", "load_in_8bit": True}, "cpu", "bnb-int8"),
    ("none", {"load_in_4bit": True}, "cuda", "bnb-fp4"),
    ("none", {"quant_method": "fp8", "load_in_8bit": True}, "cuda", "bnb-int8"),
    ("none", {"quant_method": "gptq", "bits": 4}, "cuda", "gptq-int4"),
    ("none", {"quant_method": "awq", "bits": 10**100}, "cuda", "awq"),
    ("none", {"quant_method": "fp8"}, "mps", "fp8"),
    ("none", {"quant_method": "mxfp4"}, "cpu", "mxfp4"),
    ("none", {"quant_method": "torchao", "quant_type": {}}, "cpu", "torchao"),
    ("none", {"quant_method": "compressed-tensors"}, "cpu", "compressed-tensors"),
]


@pytest.mark.parametrize(("wanted", "own", "device", "label"), CHOSEN)
def test_what_is_chosen(wanted: str, own: Own, device: str, label: str) -> None:
    assert choose_quantization(wanted, own, device, EVERYTHING.__contains__).label == label


REFUSED: list[tuple[str, Own, str, set[str], str, str]] = [
    ("3bit", None, "cpu", EVERYTHING, "no quantization '3bit'", "8bit"),
    ("8bit", None, "mps", EVERYTHING, "device 'mps'", "--device cpu or --device cuda"),
    ("8bit", None, "cpu", {"accelerate"}, "package bitsandbytes", "pip install bitsandbytes"),
    ("4bit", None, "cuda", {"bitsandbytes"}, "package accelerate", "pip install accelerate"),
    ("8bit", {"quant_method": "gptq"}, "cpu", EVERYTHING, "quantized already", "Leave"),
    ("none", {"quant_method": "gptq"}, "cpu", {"accelerate"}, "package gptqmodel", "pip install gptqmodel optimum"),
    ("none", {"quant_method": "compressed-tensors"}, "cpu", {"accelerate"}, "compressed", "install compressed-tensors"),
    ("none", {"quant_method": "fp8"}, "cpu", set(), "package accelerate", "pip install accelerate"),
    ("none", {"quant_method": "awq"}, "mps", EVERYTHING, "device 'mps'", "--device cpu"),
    ("none", {"quant_method": "quark"}, "cpu", EVERYTHING, "'quark', which is not supported", "original"),
    ("none", {"quant_method": ["fp8"]}, "cpu", EVERYTHING, "not supported", "original"),
    ("none", {"quant_method": "bitsandbytes"}, "cpu", EVERYTHING, "does not say how", "again"),
    ("none", {"load_in_4bit": True, "bnb_4bit_quant_type": "\x1b[2J"}, "cpu", EVERYTHING, "does not say how", "again"),
    ("none", {}, "cpu", EVERYTHING, "None, which is not supported", "original"),
]


@pytest.mark.parametrize(("wanted", "own", "device", "installed", "words", "fix"), REFUSED)
def test_what_is_refused(wanted: str, own: Own, device: str, installed: set[str], words: str, fix: str) -> None:
    with pytest.raises(UsageError) as refused:
        choose_quantization(wanted, own, device, installed.__contains__)
    assert words in refused.value.message
    assert fix in refused.value.fix


def test_a_part_of_the_config_may_say_it(tmp_path: Path) -> None:
    folder = build_checkpoint("gpt2", tmp_path / "nested")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] = {"quantization_config": {"quant_method": "quark"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(folder, may_be_quantized=True).quantization_config == {"quant_method": "quark"}
    with pytest.raises(UsageError, match="quantized"):
        open_checkpoint(folder)
    with pytest.raises(UsageError, match="quark"):
        load_model(folder, "cpu", "float32", HashCache(tmp_path))


def test_nothing_is_the_default() -> None:
    assert choose_quantization("none", None, "cpu", set().__contains__) == QuantizationPlan()
