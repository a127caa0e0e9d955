"""The flags that say what one gateway may take: lists of peer ids, and a size."""

from __future__ import annotations

import pytest

from p2pnet.cli.serve.guarding import guard_config
from p2pnet.config import GuardConfig
from p2pnet.errors import UsageError
from tests.stories import peer

A, B = peer("a").peer_id, peer("b").peer_id


def test_without_flags_the_limits_are_as_they_were() -> None:
    assert guard_config([], [], None, GuardConfig()) == GuardConfig()


def test_lists_and_a_size_are_added_to_the_limits() -> None:
    limits = GuardConfig(max_requests_per_minute=3, has_quota=False)
    assert guard_config([A, B, A], [B], "20kB", limits) == GuardConfig(
        allowed_gateways=frozenset({A, B}),
        blocked_gateways=frozenset({B}),
        max_requests_per_minute=3,
        max_request_bytes=20_000,
        has_quota=False,
    )


@pytest.mark.parametrize("wrong", ["", "me", A[:-1], A + "1", "12D3KooWnobody", "/p2p/" + A])
def test_what_is_no_peer_id(wrong: str) -> None:
    for lists in (([wrong], []), ([], [A, wrong])):
        with pytest.raises(UsageError, match="is not a gateway's peer id"):
            guard_config(*lists, None, GuardConfig())


@pytest.mark.parametrize("wrong", ["", "many", "-5"])
def test_what_is_no_size(wrong: str) -> None:
    with pytest.raises(UsageError):
        guard_config([], [], wrong, GuardConfig())
