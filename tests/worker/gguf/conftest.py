"""The small model as a file, and what runs it: made once for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2pnet.worker.gguf.context import Context
from p2pnet.worker.gguf.model import LlamaModel
from p2pnet.worker.gguf.rows import CPU_LIMITS
from p2pnet.worker.gguf.runner import LlamaRunner, LlamaStore
from tests.checkpoints import build_checkpoint
from tests.gguf_files import real_gguf, small_gguf

CELLS = 1024
SEQUENCES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint("qwen2", tmp_path_factory.mktemp("gguf") / "qwen2")


@pytest.fixture(scope="module")
def good(folder: Path) -> Path:
    return small_gguf(folder, folder / "small.gguf")


@dataclass(frozen=True)
class Llama:
    """A model with room for a few short sequences."""

    model: LlamaModel
    store: LlamaStore
    runner: LlamaRunner


@pytest.fixture
def llama(good: Path) -> Iterator[Llama]:
    yield running(LlamaModel(good))


@pytest.fixture
def quantized() -> Iterator[Llama]:
    """The real model."""
    yield running(LlamaModel(real_gguf()))


def running(model: LlamaModel) -> Llama:
    context = Context(model, CELLS + CPU_LIMITS.max_rows, CPU_LIMITS.max_rows, threads=1, sequences=SEQUENCES + 1)
    runner = LlamaRunner(context, goes_back=True, limits=CPU_LIMITS, spare_sequence=SEQUENCES)
    return Llama(model, LlamaStore(context, CELLS, SEQUENCES), runner)
