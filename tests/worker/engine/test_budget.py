"""How much memory keys and values may take: what the owner says, and on a CPU never more than half of what is free."""

from __future__ import annotations

import psutil
import pytest

from p2pnet.errors import UsageError
from p2pnet.worker.engine.budget import MIN_TOKENS, kv_tokens

MB = 1_000_000


@pytest.mark.parametrize(
    ("device", "bytes_per_token", "useful", "wanted", "free", "expected"),
    [
        pytest.param("cpu", 1000, 10**9, None, 100 * MB, 50_000, id="half of a CPU's"),
        pytest.param("cuda", 1000, 10**9, None, 100 * MB, 85_000, id="most of an accelerator's"),
        pytest.param("cpu", 1000, 4096, None, 100 * MB, 4096, id="no more than is useful"),
        pytest.param("cpu", 1000, 4096, 20 * MB, 100 * MB, 20_000, id="as the owner says"),
        pytest.param("cpu", 1000, 10**9, 90 * MB, 100 * MB, 50_000, id="the owner may not have more than half"),
        pytest.param("cuda", 1000, 10**9, 90 * MB, 100 * MB, 85_000, id="nor all of an accelerator's"),
        pytest.param("cpu", 3000, 10**9, None, 100 * MB, 16_666, id="whole tokens"),
        pytest.param("cpu", 1000, 10**9, MIN_TOKENS * 1000, 100 * MB, MIN_TOKENS, id="the least"),
    ],
)
def test_kv_tokens(
    device: str, bytes_per_token: int, useful: int, wanted: int | None, free: int, expected: int
) -> None:
    assert kv_tokens(device, bytes_per_token, useful, wanted, free) == expected


@pytest.mark.parametrize(
    ("wanted", "free"),
    [
        pytest.param(MIN_TOKENS * 1000 - 1, 100 * MB, id="the owner allows too little"),
        pytest.param(0, 100 * MB, id="the owner allows nothing"),
        pytest.param(None, 2 * MIN_TOKENS * 1000 - 2, id="too little is free"),
        pytest.param(10 * MB, 0, id="nothing is free"),
    ],
)
def test_too_little_for_a_conversation(wanted: int | None, free: int) -> None:
    with pytest.raises(UsageError) as caught:
        kv_tokens("cpu", 1000, 10**9, wanted, free)
    assert "--kv-memory" in str(caught.value.fix)


def test_the_system_is_asked() -> None:
    assert 0 < kv_tokens("cpu", 1, 10**18, None) <= psutil.virtual_memory().total / 2
