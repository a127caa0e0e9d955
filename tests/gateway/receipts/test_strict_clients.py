"""The clients that the dialects are made for pass over receipts, and read the answer as ever."""

from __future__ import annotations

import anthropic
import ollama
import openai

from p2pnet.worker.backends.synthetic.echo import EchoBackend
from tests.gateway.scripted_swarm import scripted_swarm

ASKED = {"x-p2pnet-receipt": "yes"}
TEXT = "one two three"


async def test_openai_s_client() -> None:
    async with scripted_swarm([EchoBackend()]) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, default_headers=ASKED)
        async with client:
            chat = client.chat.completions.with_streaming_response
            async with chat.create(model="echo", messages=[{"role": "user", "content": TEXT}]) as reply:
                assert "x-p2pnet-receipt" in reply.headers
            chunks = await client.chat.completions.create(
                model="echo", messages=[{"role": "user", "content": TEXT}], stream=True
            )
            said = [chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices]
            assert "".join(said) == TEXT
            events = [event async for event in await client.responses.create(model="echo", input=TEXT, stream=True)]
            assert events[-1].type == "response.completed" and events[-1].response.output_text == TEXT


async def test_anthropic_s_client() -> None:
    async with scripted_swarm([EchoBackend()]) as url:
        client = anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0, default_headers=ASKED)
        async with (
            client,
            client.messages.stream(model="echo", max_tokens=8, messages=[{"role": "user", "content": TEXT}]) as stream,
        ):
            assert "".join([text async for text in stream.text_stream]) == TEXT


async def test_ollama_s_client() -> None:
    async with scripted_swarm([EchoBackend()]) as url, ollama.AsyncClient(url, headers=ASKED) as client:
        parts = [part async for part in await client.chat("echo", [{"role": "user", "content": TEXT}], stream=True)]
        assert "".join(part.message.content or "" for part in parts) == TEXT
        assert parts[-1].done
