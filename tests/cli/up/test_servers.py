"""Which servers of this machine could be lent: found by what they answer, and not by their port alone."""

from __future__ import annotations

import json

import pytest

from p2pnet.cli.up.servers import OWN_PATH, USUAL, FoundServer, find_servers
from tests.scripted_server import Reply, scripted

LISTED = Reply((json.dumps({"object": "list", "data": [{"id": "a", "object": "model"}, {"id": "b"}]}).encode(),))
OURS = Reply((b'{"initial_peers": [], "swarm": null, "command": "p2pnet serve"}',))
REFUSED = Reply((b'{"error": {"message": "Unauthorized"}}',), 401)
REFUSED_BY_OURS = Reply((b'{"error": {"code": "invalid_api_key"}}',), 401)
ANYTHING = Reply((b'{"error": "Unexpected endpoint or method."}',))


@pytest.mark.parametrize(
    ("replies", "models", "needs_key"),
    [
        ({"/v1/models": LISTED}, ("a", "b"), False),
        ({"/v1/models": LISTED, OWN_PATH: ANYTHING}, ("a", "b"), False),
        ({"/v1/models": Reply((b'{"data": []}',))}, (), False),
        ({"/v1/models": REFUSED}, (), True),
    ],
)
async def test_a_server_of_models_is_found(
    replies: dict[str, Reply | list[Reply]], models: tuple[str, ...], needs_key: bool
) -> None:
    async with scripted(replies) as server:
        found = await find_servers([("Ollama", server.url), ("vLLM", "http://127.0.0.1:9")])
        assert found == [FoundServer("Ollama", server.url, models, needs_key)]


@pytest.mark.parametrize(
    "replies",
    [
        {},
        {"/v1/models": Reply((b"<html>a router</html>",))},
        {"/v1/models": Reply((b'{"data": "none"}',))},
        {"/v1/models": Reply(status=500)},
        {"/v1/models": LISTED, OWN_PATH: OURS},
        {"/v1/models": REFUSED_BY_OURS, OWN_PATH: REFUSED_BY_OURS},
    ],
)
async def test_what_else_listens_there_is_not_lent(replies: dict[str, Reply | list[Reply]]) -> None:
    """A gateway of ours among it, which would ask itself."""
    async with scripted(replies) as server:
        assert await find_servers([("vLLM", server.url)]) == []


async def test_one_that_never_answers_holds_nobody_up() -> None:
    async with (
        scripted({"/v1/models": Reply((b"{",), then="wait")}) as silent,
        scripted({"/v1/models": LISTED}) as good,
    ):
        found = await find_servers([("llama.cpp", silent.url), ("Ollama", good.url)], look_s=0.2)
        assert [server.name for server in found] == ["Ollama"]


def test_nobody_but_this_machine_is_looked_at() -> None:
    assert all(url.startswith("http://127.0.0.1:") for _, url in USUAL)
