"""What layers take in memory, before any is loaded: as much as they take then."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.checkpoint import open_checkpoint
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.spans.loading import LayerSizes, load_span, measure_layers
from p2pnet.worker.spans.running import SpanRunner
from tests.checkpoints import ARCHITECTURES, build_checkpoint


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_take_what_was_said(tmp_path: Path, name: str) -> None:
    folder, cache = build_checkpoint(name, tmp_path / name), HashCache(tmp_path)
    sizes = measure_layers(folder, "cpu", "auto", cache)
    part = load_span(folder, 0, 2, "cpu", "auto", cache)
    assert (sizes.digest, sizes.layers, sizes.context_length) == (part.digest, part.layers, part.context_length)
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in part.model.parameters())
    assert 0 <= sizes.rest_bytes + 2 * sizes.layer_bytes - parameters <= sizes.layer_bytes
    assert 2 * sizes.kv_bytes + sizes.state_bytes * (part.layers > 2) == SpanRunner(part).bytes_per_token


def test_fewer_bits_take_less(tmp_path: Path) -> None:
    folder, cache = build_checkpoint("llama", tmp_path / "llama"), HashCache(tmp_path)
    whole, half = (measure_layers(folder, "cpu", dtype, cache) for dtype in ("float32", "bfloat16"))
    assert (half.layer_bytes * 2, half.kv_bytes * 2) == (whole.layer_bytes, whole.kv_bytes)
    assert half.digest != whole.digest


def test_a_folder_that_lacks_files_is_refused(tmp_path: Path) -> None:
    folder = build_checkpoint("llama", tmp_path / "llama")
    open_checkpoint(folder).weights[0].unlink()
    with pytest.raises(UsageError, match="lacks") as refused:
        measure_layers(folder, "cpu", "auto", HashCache(tmp_path))
    assert refused.value.fix


@pytest.mark.parametrize(
    ("memory_bytes", "kv_tokens", "fits"),
    [(0, 0, 0), (109, 0, 0), (110, 0, 1), (1009, 0, 9), (10**9, 0, 24), (122, 1, 0), (123, 1, 1), (1140, 10, 5)],
)
def test_as_many_layers_fit_as_leave_room_for_keys_and_values(memory_bytes: int, kv_tokens: int, fits: int) -> None:
    assert LayerSizes("", 24, 100, 10, 10, 3, 64).fitting(memory_bytes, kv_tokens) == fits
