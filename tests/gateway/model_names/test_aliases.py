"""Wherever a client can name a model, an alias and `auto` do as well; lists have the models themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.model_names.code_models import CodeModels
from tests.gateway.fake_generate import FakeGenerate, answer, service

ALIASES = {"gpt-4o-mini": "tiny", "claude": "org/large", "any": "auto", "away": "gone", "codegen": "org/large"}
ANTHROPIC = {"anthropic-version": "2023-06-01"}
GATEWAY = replace(service(FakeGenerate(*answer("Hi"))), aliases=ALIASES)

NAMES = [
    ("tiny", "tiny"),
    ("gpt-4o-mini", "tiny"),
    ("claude", "org/large"),
    ("auto", "tiny"),
    ("any", "tiny"),
    ("away", None),
    ("nothing", None),
]
"""And which model is shown: of `auto` the one that most workers run."""


@pytest.mark.parametrize(("name", "model"), NAMES)
async def test_a_model_is_shown_under_its_other_names(name: str, model: str | None) -> None:
    async with http() as client:
        shown: list[tuple[httpx.Response, str]] = [
            (await client.get(f"/v1/models/{name}"), "id"),
            (await client.get(f"/v1/models/{name}", headers=ANTHROPIC), "id"),
            (await client.get(f"/v1/engines/{name}"), "id"),
            (await client.post("/api/show", json={"model": name}), "basename"),
            (await client.post("/api/show", json={"name": f"{name}:latest"}), "basename"),
        ]
    for response, key in shown:
        assert response.status_code == (404 if model is None else 200)
        if model is not None:
            document = response.json()
            assert model == (document["id"] if key == "id" else document["model_info"]["general.basename"])


@pytest.mark.parametrize(("name", "model"), NAMES)
@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/generate", {}), ("/api/generate", {"prompt": ""}), ("/api/chat", {}), ("/api/chat", {"messages": []})],
)
async def test_a_model_is_loaded_and_unloaded_under_its_other_names(
    name: str, model: str | None, path: str, body: dict[str, Any]
) -> None:
    async with http() as client:
        for named in (name, f"{name}:latest"):
            load = await client.post(path, json={"model": named, **body})
            unload = await client.post(path, json={"model": named, "keep_alive": 0, **body})
            assert load.status_code == unload.status_code == (404 if model is None else 200)
            if model is not None:
                assert load.json()["done_reason"] == "load"
                assert unload.json()["done_reason"] == "unload"
                assert load.json()["model"] == named


async def test_lists_have_the_models_themselves() -> None:
    async with http() as client:
        openai = (await client.get("/v1/models")).json()["data"]
        anthropic = (await client.get("/v1/models", headers=ANTHROPIC)).json()["data"]
        engines = (await client.get("/v1/engines")).json()["data"]
        tags = (await client.get("/api/tags")).json()["models"]
        running = (await client.get("/api/ps")).json()["models"]
    assert [each["id"] for each in openai] == ["tiny", "org/large"]
    assert [each["id"] for each in anthropic] == ["tiny", "org/large"]
    assert [each["id"] for each in engines] == ["tiny", "org/large"]
    assert [each["name"] for each in tags] == [each["name"] for each in running] == ["tiny:latest", "org/large:latest"]


@pytest.mark.parametrize("name", ["gpt-4o-mini", "auto", "codegen"])
def test_an_engine_may_be_an_alias(name: str) -> None:
    """Even one of Codex's time: its owner has said what it stands for."""
    code_models = CodeModels(GATEWAY.list_models, ALIASES)
    assert code_models.for_engine(name) == code_models.for_completion(name) == name


@pytest.mark.parametrize(("name", "asked"), [("claude", "org/large"), ("auto", "auto"), ("any", "any")])
async def test_ollamas_requests_go_to_what_the_name_stands_for(name: str, asked: str) -> None:
    """Of `auto`, who serves it is found out later, by what the request needs."""
    generate = FakeGenerate(*answer("Hi"))
    app = create_app(replace(service(generate), aliases=ALIASES))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        body = {"model": f"{name}:latest", "prompt": "hi", "stream": False}
        assert (await client.post("/api/generate", json=body)).json()["model"] == f"{name}:latest"
    assert generate.requests[0].model == asked


def http() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(GATEWAY)), base_url="http://gateway")
