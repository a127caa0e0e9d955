"""How numbers of bytes are written."""

from __future__ import annotations

import pytest

from p2pnet.display.sizes import size


@pytest.mark.parametrize(
    ("size_bytes", "written"),
    [(0, "0 kB"), (1499, "1 kB"), (999_499, "999 kB"), (1_000_000, "1 MB"), (340e6, "340 MB"), (1.25e9, "1.25 GB")],
)
def test_sizes(size_bytes: float, written: str) -> None:
    assert size(size_bytes) == written
