"""Receipts on real daemons: a client asks for one, checks it, and the volunteer sees what was signed, and claims it."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.processes import processes, run, wait_until

pytestmark = pytest.mark.timeout(300)

ANSWER = "one two three"


def test_a_client_checks_what_a_worker_signed_and_the_volunteer_sees_what_was_given() -> None:
    with processes("receipts") as start:
        script = start.root / "script.json"
        script.write_text(json.dumps([{"model": "scripted", "answers": [{"text": ANSWER}]}]))
        peer = start.bootstrap().ready.address
        worker = start.worker("--script", str(script), peer=peer)
        gateway = start.gateway(peer=peer)
        worker.wait_ready()
        url = gateway.ready.http
        assert url is not None
        wait_until(lambda: bool(httpx.get(f"{url}/v1/models").json()["data"]), "the gateway lists the model")
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Count."}]}
        replies = [
            httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-p2pnet-receipt": "yes"}, timeout=30)
            for _ in range(3)
        ]
        [reply, *_] = replies
        assert reply.json()["choices"][0]["message"]["content"] == ANSWER
        receipt_id = json.loads(reply.headers["x-p2pnet-receipt"])["id"]
        receipt, answer = start.root / "receipt.json", start.root / "answer.txt"
        receipt.write_bytes(httpx.get(f"{url}/p2pnet/v1/receipts/{receipt_id}").content)
        answer.write_text(ANSWER)
        outcome = run("verify", str(receipt), "--answer", str(answer), root=start.root)
        assert outcome.status == 0, outcome.stderr
        assert worker.ready.peer_id in outcome.stdout and gateway.ready.peer_id in outcome.stdout
        answer.write_text("four")
        outcome = run("verify", str(receipt), "--answer", str(answer), root=start.root)
        assert (outcome.status, outcome.stdout.count("Shown")) == (1, 0)

        def answers() -> int:
            given = json.loads(run("given", "--json", root=start.root).stdout)["given"]
            return sum(row["answers"] for row in given if row["gateway"] == gateway.ready.peer_id)

        wait_until(lambda: answers() == 3, "what was signed is kept, while the worker runs")
        gateway_id = gateway.ready.peer_id
        assert gateway_id is not None
        claimed = run("keys", "claim", gateway_id, "--show-at", url, root=start.root)
        assert (claimed.status, "received 9 tokens from you" in claimed.stderr) == (0, True), claimed.stderr
        headers = {"authorization": f"Bearer {claimed.stdout.strip()}"}
        standing = httpx.get(f"{url}/p2pnet/v1/standing", headers=headers).json()["standing"]
        assert (standing["peer"], standing["turns"]) == (worker.ready.peer_id, 1)  # one caller makes nobody great
        assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30).status_code == 200
        forged = {"authorization": headers["authorization"][:-3] + "AAA"}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=forged, timeout=30).status_code == 401
