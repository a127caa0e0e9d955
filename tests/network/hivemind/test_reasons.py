"""What p2pd says of what has failed, in one line and in our words."""

from __future__ import annotations

import pytest

from p2pnet.network.hivemind.p2pd import reason
from tests.stories import peer

OTHER = peer("other").peer_id


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "no answer in time"),
        (OSError("Connect failed. msg=failed to dial:\n  * [/ip4/20.1.1.1/tcp/1] refused"), "failed to dial: "),
        (
            OSError(
                f"Connect failed. msg=failed to dial:\n  * [/ip4/20.1.1.1/tcp/1] failed to negotiate security: "
                f"peer id mismatch: expected {peer('wanted').peer_id}, but remote key matches {OTHER}"
            ),
            f"another peer is there, {OTHER}",
        ),
        (EOFError(), "EOFError"),
    ],
)
def test_reasons(error: BaseException, said: str) -> None:
    assert reason(error).startswith(said)
    assert "\n" not in reason(error)
