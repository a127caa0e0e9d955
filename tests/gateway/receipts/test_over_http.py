"""A client that asks for receipts gets them in every dialect, and one that does not sees nothing of them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from p2pnet.receipts.document import ReceiptDocument, read_document
from p2pnet.receipts.hashing import request_hash, text_hash
from p2pnet.receipts.signed import Receipt
from p2pnet.receipts.statement import open_statement
from p2pnet.worker.backends.synthetic.echo import EchoBackend
from tests.gateway.scripted_swarm import scripted_swarm
from tests.stories import peer

ASKED = {"x-p2pnet-receipt": "yes"}
TEXT = "one two three"
MESSAGES = [{"role": "user", "content": TEXT}]
DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "OpenAI's chats": ("/v1/chat/completions", {"messages": MESSAGES}),
    "OpenAI's completions": ("/v1/completions", {"prompt": TEXT}),
    "OpenAI's responses": ("/v1/responses", {"input": TEXT}),
    "Ollama's chats": ("/api/chat", {"messages": MESSAGES}),
    "Ollama's prompts": ("/api/generate", {"prompt": TEXT, "raw": True}),
    "Anthropic's messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 8}),
    "FauxPilot's": ("/v1/engines/echo/completions", {"prompt": TEXT}),
}

every_dialect = pytest.mark.parametrize("name", DIALECTS)


async def ask(url: str, name: str, stream: bool, headers: dict[str, str] = ASKED) -> httpx.Response:
    path, body = DIALECTS[name]
    async with httpx.AsyncClient(base_url=url) as client:
        reply = await client.post(path, json={"model": "echo", "stream": stream, **body}, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply


def streamed(reply: httpx.Response) -> ReceiptDocument:
    """What the end of the stream has."""
    if reply.headers["content-type"].startswith("application/x-ndjson"):
        last = json.loads(reply.text.splitlines()[-1])
        assert last["done"] is True
        return read_document(json.dumps(last["p2pnet_receipt"]).encode())
    last_event = reply.text.removesuffix("\n\n").rpartition("\n\n")[2]
    assert last_event.startswith(": p2pnet-receipt ")
    return read_document(last_event.removeprefix(": p2pnet-receipt ").encode())


@every_dialect
async def test_a_stream_ends_with_the_receipt(name: str) -> None:
    async with scripted_swarm([EchoBackend()]) as url:
        document = streamed(await ask(url, name, stream=True))
        [part] = document.parts
        assert part.request is None
        receipt = open_statement(part.receipt, Receipt)
        assert (receipt.worker, receipt.gateway) == (peer("worker 0").peer_id, peer("gateway").peer_id)
        assert receipt.text_hash == text_hash(TEXT.encode())
        async with httpx.AsyncClient(base_url=url) as client:
            kept = read_document((await client.get(f"/p2pnet/v1/receipts/{document.id}")).content)
        assert kept.without_requests() == document
        assert kept.parts[0].request is not None
        assert request_hash(kept.parts[0].request) == receipt.request_hash


@every_dialect
async def test_a_whole_answer_has_it_in_a_header(name: str) -> None:
    async with scripted_swarm([EchoBackend()]) as url:
        reply = await ask(url, name, stream=False)
        document = read_document(reply.headers["x-p2pnet-receipt"].encode())
        assert open_statement(document.parts[0].receipt, Receipt).tokens == 3


@every_dialect
@pytest.mark.parametrize("stream", [True, False])
async def test_who_does_not_ask_sees_nothing_of_it(name: str, stream: bool) -> None:
    async with scripted_swarm([EchoBackend()]) as url:
        reply = await ask(url, name, stream, headers={"x-p2pnet-receipt": "no"})
        assert "receipt" not in reply.text and "x-p2pnet-receipt" not in reply.headers


async def test_several_prompts_have_a_receipt_each_and_many_are_fetched() -> None:
    async with scripted_swarm([EchoBackend()]) as url, httpx.AsyncClient(base_url=url) as client:
        for prompts, told in ((3, 3), (20, 0)):
            body = {"model": "echo", "prompt": [TEXT] * prompts}
            reply = await client.post("/v1/completions", json=body, headers=ASKED)
            document = read_document(reply.headers["x-p2pnet-receipt"].encode())
            assert len(document.parts) == told
            kept = read_document((await client.get(f"/p2pnet/v1/receipts/{document.id}")).content)
            hashes = {open_statement(part.receipt, Receipt).request_hash for part in kept.parts}
            assert len(hashes) == prompts


async def test_a_receipt_that_is_not_there_is_a_404() -> None:
    async with scripted_swarm([EchoBackend()]) as url, httpx.AsyncClient(base_url=url) as client:
        reply = await client.get("/p2pnet/v1/receipts/receipt-0")
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "receipt_not_found"
