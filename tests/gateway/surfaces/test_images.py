"""Images in every dialect: to the workers of a model that read them and to no other, whole, and again when one is
lost."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from p2pnet.errors import WorkerFailed
from p2pnet.images import image_hash, image_kind, images_of
from p2pnet.messages import GenerateRequest
from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions
from p2pnet.worker.backends.synthetic.scripted import Said, ScriptedBackend
from tests.gateway.scripted_swarm import scripted_swarm
from tests.images import base64, data_url, gif, png

LOOK, TEXT = png(2, 3, shade=7), "What is it?"


def seen(request: GenerateRequest) -> Said:
    """Names what it is shown."""
    images = [
        f"{image_kind(image.data).mime} {image_hash(image).hex()} at {image.at}" for image in images_of(request.prompt)
    ]
    return Said(", then ".join(images) or "nothing")


def seeing(**fields: Any) -> ScriptedBackend:
    return ScriptedBackend(seen, "seeing", **fields)


def blind(name: str = "seeing") -> EchoBackend:
    return EchoBackend(EchoOptions(name))


def openai_parts(*urls: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": TEXT}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]


CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": openai_parts(data_url(LOOK))}]})
DIALECTS: dict[str, tuple[str, dict[str, Any], list[Any], int]] = {
    "chat": (*CHAT, ["choices", 0, "message", "content"], len(TEXT)),
    "responses": (
        "/v1/responses",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": data_url(LOOK), "detail": "high"}]}
            ]
        },
        ["output", 0, "content", 0, "text"],
        0,
    ),
    "Ollama's chat": (
        "/api/chat",
        {"stream": False, "messages": [{"role": "user", "content": TEXT, "images": [base64(LOOK)]}]},
        ["message", "content"],
        0,
    ),
    "Ollama's generate": (
        "/api/generate",
        {"stream": False, "prompt": TEXT, "images": [base64(LOOK)]},
        ["response"],
        0,
    ),
    "Anthropic's messages": (
        "/v1/messages",
        {
            "max_tokens": 99,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": TEXT},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": base64(LOOK)},
                        },
                    ],
                }
            ],
        },
        ["content", 0, "text"],
        len(TEXT),
    ),
}


@pytest.mark.parametrize(("path", "body", "where", "at"), DIALECTS.values(), ids=DIALECTS)
async def test_an_image_goes_to_a_worker_that_reads_it(
    path: str, body: dict[str, Any], where: list[Any], at: int
) -> None:
    """A worker of the same model that does not is never asked, and a model that nobody reads images with is a 400."""
    reader = seeing()
    async with scripted_swarm([blind()], [reader], [blind("blind")]) as url, httpx.AsyncClient(base_url=url) as http:
        for _ in range(4):
            reply = await http.post(path, json={"model": "seeing", **body})
            answer = reply.raise_for_status().json()
            for key in where:
                answer = answer[key]
            (image,) = images_of(reader.requests[-1].prompt)
            assert image.data == LOOK
            assert answer == f"image/png {image_hash(image).hex()} at {at}"
        refused = await http.post(path, json={"model": "blind", **body})
        assert refused.status_code == 400
        assert "images" in refused.text or "does not support vision" in refused.text


async def test_the_clients_of_each_dialect_send_images_as_they_do_elsewhere() -> None:
    reader = seeing()
    async with scripted_swarm([reader]) as url:
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            parts: Any = openai_parts(data_url(LOOK))
            await client.chat.completions.create(model="seeing", messages=[{"role": "user", "content": parts}])
            shown: Any = [{"type": "input_image", "image_url": data_url(LOOK), "detail": "auto"}]
            await client.responses.create(model="seeing", input=[{"role": "user", "content": shown}])
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as claude:
            source: Any = {"type": "base64", "media_type": "image/png", "data": base64(LOOK)}
            turn: Any = {"role": "user", "content": [{"type": "image", "source": source}]}
            await claude.messages.create(model="seeing", max_tokens=9, messages=[turn])
        async with ollama.AsyncClient(url) as llama:
            await llama.chat("seeing", [{"role": "user", "content": TEXT, "images": [LOOK]}])
            await llama.generate("seeing", TEXT, images=[LOOK])
            assert "vision" in ((await llama.show("seeing")).capabilities or ())
    assert [[image.data for image in images_of(asked.prompt)] for asked in reader.requests] == [[LOOK]] * 5


async def test_what_is_no_image_is_refused_before_anybody_is_asked() -> None:
    reader = seeing()
    async with scripted_swarm([reader]) as url, httpx.AsyncClient(base_url=url) as http:
        for address in ("https://example.org/cat.png", data_url(b"<svg/>", "image/png")):
            body = {"model": "seeing", "messages": [{"role": "user", "content": openai_parts(address)}]}
            reply = await http.post("/v1/chat/completions", json=body)
            assert reply.status_code == 400
            assert "messages[0].content[1].image_url: " in reply.json()["error"]["message"]
    assert reader.requests == []


async def test_an_answer_about_images_goes_on_elsewhere_with_the_same_images() -> None:
    faults = [3]

    async def breaks(token: int) -> None:
        if token in faults:
            faults.clear()
            raise WorkerFailed("told to fail here")

    one, other = seeing(gate=breaks), seeing(gate=breaks)
    body = {
        "model": "seeing",
        "messages": [{"role": "user", "content": openai_parts(data_url(LOOK), data_url(gif(2)))}],
    }
    async with scripted_swarm([one], [other]) as url, httpx.AsyncClient(base_url=url) as http:
        reply = await http.post("/v1/chat/completions", json=body)
        answer = reply.raise_for_status().json()["choices"][0]["message"]["content"]
    first, second = sorted(one.requests + other.requests, key=lambda request: len(request.resume_tokens))
    assert (first.resume_tokens, second.resume_tokens) == ((), (0, 1, 2))
    assert first.prompt == second.prompt
    assert [image.data for image in images_of(second.prompt)] == [LOOK, gif()]
    assert answer == seen(first).text
