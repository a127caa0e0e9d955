"""Loads a GGUF file into memory, with its tokenizer and its digest. Knows nothing of requests."""

from __future__ import annotations

from pathlib import Path

from p2pnet.worker.checkpoints.digest import HashCache, Progress, gguf_digest
from p2pnet.worker.checkpoints.gguf_files import parts_of
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.gguf.library import choose_device, family
from p2pnet.worker.gguf.model import LlamaModel, check_generates, check_room
from p2pnet.worker.gguf.tokenizer import GgufTokenizer

DTYPE = "float32"
"""What llama.cpp has between its products with the weights."""


def load_gguf(path: Path, device: str, cache: HashCache, progress: Progress | None = None) -> LoadedModel:
    """Load a file, or all parts of one of which `path` is the first. Raises UsageError when that is not possible,
    before anything large is read."""
    chosen = choose_device(device)
    vocabulary = LlamaModel(path, vocabulary_only=True)
    check_generates(vocabulary)
    check_room(path, chosen)
    tokenizer = GgufTokenizer(vocabulary)
    model = LlamaModel(path, chosen)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        digest=gguf_digest(parts_of(path), family(), cache, progress),
        dtype=DTYPE,
        quantization=model.quantization,
        memory_bytes=model.weight_bytes,
        context_length=model.context_length,
        end_token_ids=tokenizer.end_token_ids,
        vocabulary_size=model.vocabulary_size,
    )
