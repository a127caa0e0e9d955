"""Audits on real daemons: a gateway's own worker looks at a stranger's answers, and what it finds is shown."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.processes import processes, wait_until

pytestmark = pytest.mark.timeout(300)


def test_a_gateways_own_worker_looks_at_a_strangers_answers() -> None:
    with processes("audits") as start:
        peer = start.bootstrap().ready.address
        own, stranger = (start.worker("--model", "tiny", peer=peer) for _ in range(2))
        own_id = own.wait_ready().peer_id
        gateway = start.gateway("--auditor", own_id, peer=peer)
        stranger_id = stranger.wait_ready().peer_id
        url = gateway.ready.http
        assert url is not None

        def audits() -> dict[str, Any]:
            shown = httpx.get(f"{url}/p2pnet/v1/workers").json()["workers"]
            return {worker["id"]: worker["audit"] for worker in shown}

        wait_until(lambda: set(audits()) == {own_id, stranger_id}, "the gateway lists both")

        def is_looked_at() -> bool:
            """Whether the stranger is, with one more request to either of the two."""
            body = {"model": "tiny", "messages": [{"role": "user", "content": "Count to ten."}], "max_tokens": 16}
            assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200
            return bool(audits()[stranger_id]["verdict"] == "passed")

        wait_until(is_looked_at, "the stranger's answers are looked at")
        found = audits()
        assert (found[stranger_id]["auditors"], found[own_id]["verdict"]) == (1, "unaudited")
        assert found[stranger_id]["log_e"] < 0
        assert 'p2pnet_gateway_audits_total{outcome="passed"}' in httpx.get(f"{url}/metrics").text
