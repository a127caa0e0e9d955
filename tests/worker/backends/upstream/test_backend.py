"""The upstream backend against a server that answers byte for byte as it is told: streams, refusals, hang-ups,
cancellation, models that come and go."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from p2pnet.errors import (
    Busy,
    ContextOverflow,
    FeatureMissing,
    InvalidRequest,
    ModelNotFound,
    P2PNetError,
    UsageError,
    WorkerFailed,
)
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    ImagePart,
    Message,
    TextDelta,
    TextPrompt,
    Tool,
    Usage,
)
from p2pnet.worker.backend import Backend, BackendEvent
from p2pnet.worker.backends.upstream.address import Kind
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions
from p2pnet.worker.backends.upstream.lines import MAX_LINE_BYTES
from p2pnet.worker.backends.upstream.models import MAX_OFFERS
from p2pnet.worker.backends.upstream.session import MAX_LIST_BYTES, no_delay_socket
from tests.images import data_url, png
from tests.scripted_server import Reply, ScriptedServer, json_reply, model_list, scripted, sse
from tests.stories import settle

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MODELS = "/v1/models"
HELLO = ChatPrompt((Message("user", "hello"),))


def chunk(content: str | None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
ANSWER = (sse(chunk("Hé")), sse(chunk("llo")), sse(chunk(None, "stop"), USAGE, "[DONE]"))
EXPECTED = [TextDelta("Hé", tokens=1), TextDelta("llo", tokens=1), Finished("stop", Usage(9, 2))]
M = model_list({"id": "m", "max_model_len": 1000})


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest("r1", fields.pop("model", "m"), fields.pop("prompt", HELLO), **fields)


@asynccontextmanager
async def serving(
    replies: dict[str, Reply | list[Reply]],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    **options: Any,
) -> AsyncIterator[tuple[UpstreamBackend, ScriptedServer]]:
    """A backend in front of a scripted server."""
    async with scripted({MODELS: M, TEXT: Reply(), **replies}) as server:
        backend = await UpstreamBackend.open(UpstreamOptions(server.url, **options), sleep)
        try:
            yield backend, server
        finally:
            await backend.close()


async def run(backend: Backend, asked: GenerateRequest) -> list[BackendEvent]:
    return [event async for event in backend.generate(asked)]


async def test_a_stream_is_passed_on_whole_and_byte_by_byte() -> None:
    body = b"".join(ANSWER)
    replies = [Reply(ANSWER), Reply(tuple(body[at : at + 1] for at in range(len(body)))), Reply((body,))]
    async with serving({CHAT: replies}) as (backend, server):
        for _ in range(3):
            accepted, *rest = await run(backend, request())
            assert accepted == Accepted(6, backend.models[0].digest)
            assert rest == EXPECTED
        (first, *_) = server.asked(CHAT)
        assert first.json["messages"] == [{"role": "user", "content": "hello"}]


async def test_deltas_come_as_the_server_sends_them() -> None:
    async with serving({CHAT: Reply(ANSWER[:2], then="wait")}) as (backend, server):
        events = backend.generate(request())
        assert isinstance(await anext(events), Accepted)
        assert await anext(events) == TextDelta("Hé", tokens=1)
        assert await anext(events) == TextDelta("llo", tokens=1)
        await events.aclose()
        await asyncio.wait_for(server.left.wait(), 5)


async def test_a_cancelled_reader_hangs_up() -> None:
    async with serving({CHAT: Reply(ANSWER[:1], then="wait")}) as (backend, server):
        task = asyncio.create_task(run(backend, request()))
        await asyncio.wait_for(server.waiting.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)


Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def whole(body: bytes, status: str = "200 OK", connection: str = "close") -> bytes:
    """A response as it stands on the wire."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: {connection}\r\n\r\n".encode() + body


@asynccontextmanager
async def raw_server(post: Handler) -> AsyncIterator[UpstreamBackend]:
    """A backend in front of a server whose POSTs are handled by hand: `post` is given the head of the request."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"GET /v1/models" in head:
                    writer.write(whole(M.chunks[0], connection="keep-alive"))
                elif head.startswith(b"GET"):
                    writer.write(whole(b"", "405 No", "keep-alive"))
                elif b"embeddings" in head or b"rerank" in head:
                    writer.write(whole(b"", "404 No"))
                    break
                else:
                    await post(head, reader, writer)
                    break
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        backend = await UpstreamBackend.open(UpstreamOptions(f"http://{host}:{port}", accept_s=0.01))
        try:
            yield backend
        finally:
            await backend.close()


@pytest.mark.parametrize("is_read_on", [True, False])
async def test_a_request_is_accepted_while_the_server_is_silent(is_read_on: bool) -> None:
    """Some servers say 200 with the first token, and it may be long in coming."""
    gone = asyncio.Event()

    async def say_nothing(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        gone.set()

    async with raw_server(say_nothing) as backend:
        events = backend.generate(request())
        assert isinstance(await anext(events), Accepted)
        if is_read_on:
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await events.aclose()
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_connection_that_was_just_closed_is_replaced() -> None:
    """The pool may hold one that the server is closing at this moment."""
    posts: list[bytes] = []

    async def close_the_first(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        posts.append(head)
        if len(posts) > 1:
            writer.write(whole(b"".join(ANSWER)))
            await writer.drain()

    async with raw_server(close_the_first) as backend:
        assert (await run(backend, request()))[1:] == EXPECTED
    assert len(posts) == 2


async def test_a_redirect_is_not_followed() -> None:
    """A prompt goes to the server that the user named."""
    moved = Reply(status=307, headers={"Location": "/elsewhere"})
    async with serving({CHAT: moved, "/elsewhere": Reply(ANSWER)}) as (backend, server):
        with pytest.raises(WorkerFailed, match="status 307"):
            await run(backend, request())
        assert server.asked("/elsewhere") == []


BROKEN = [
    ("cut in mid-answer", Reply(ANSWER[:2], then="cut")),
    ("cut before the answer", Reply((), then="cut")),
    ("no end", Reply(ANSWER[:2])),
    ("nothing", Reply()),
    ("garbage", Reply((ANSWER[0], b"data: {oops\n\n"))),
    ("an error in mid-answer", Reply((ANSWER[0], sse({"error": {"message": "CUDA out of memory"}})))),
    ("a line without end", Reply((b"data: " + b"x" * (MAX_LINE_BYTES + 1),))),
    ("binary", Reply((bytes(range(256)) * 50,))),
    ("compressed", Reply((gzip.compress(b"".join(ANSWER)),), headers={"Content-Encoding": "gzip"})),
    ("status 500", json_reply({"error": "secret path /home/ann"}, 500)),
    ("too much", Reply((sse(*(chunk("x" * 1000) for _ in range(100))), ANSWER[2]))),
]


@pytest.mark.parametrize("reply", [case[1] for case in BROKEN], ids=[case[0] for case in BROKEN])
async def test_what_breaks_is_the_workers_failure(reply: Reply) -> None:
    async with serving({CHAT: [reply, Reply(ANSWER)]}) as (backend, _):
        with pytest.raises(WorkerFailed) as failed:
            await run(backend, request(max_tokens=8))
        assert "/home/ann" not in failed.value.message
        assert (await run(backend, request()))[1:] == EXPECTED, "the next request is not touched"


REFUSED: list[tuple[Reply, type[P2PNetError], str]] = [
    (json_reply({}, 429), Busy, "busy"),
    (json_reply({}, 503), Busy, "busy"),
    (json_reply({"error": {"message": "bad stop"}}, 400), InvalidRequest, "bad stop"),
    (json_reply({"error": {"message": "maximum context length is 10"}}, 400), ContextOverflow, "maximum context"),
    (json_reply({}, 401), WorkerFailed, "refused this worker"),
    (Reply((b"x" * 200_000,), 400), InvalidRequest, "status 400"),
    (Reply((b'{"error":',), 400, then="cut"), InvalidRequest, "status 400"),
]


@pytest.mark.parametrize(("reply", "error", "words"), REFUSED)
async def test_refusals_come_before_accepted(reply: Reply, error: type[P2PNetError], words: str) -> None:
    async with serving({CHAT: reply}) as (backend, _):
        with pytest.raises(error, match=words):
            await anext(backend.generate(request()))


async def test_a_text_that_the_server_does_not_go_on_with_is_no_fault_of_the_request() -> None:
    refused = json_reply({"error": {"message": "the final message does not appear in the chat"}}, 400)
    async with serving({CHAT: [refused, Reply(ANSWER)]}) as (backend, server):
        with pytest.raises(FeatureMissing, match="final message") as failed:
            await run(backend, request(resume_text="Once upon "))
        assert failed.value.param == "resume_text"
        accepted, *rest = await run(backend, request(resume_text="Once upon "))
        assert accepted == Accepted(13, backend.models[0].digest)
        assert rest == EXPECTED
        assert server.asked(CHAT)[1].json["messages"][-1] == {"role": "assistant", "content": "Once upon"}
        for wrong in (request(resume_text="x" * (1 << 20)), request(resume_text="x", n=2)):
            with pytest.raises(InvalidRequest):
                await run(backend, wrong)
        assert len(server.asked(CHAT)) == 2


async def test_a_refused_key_is_said_to_the_owner_and_to_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async with serving({CHAT: json_reply({"error": "key s3cret is bad"}, 401)}, key="s3cret") as (backend, server):
        with pytest.raises(WorkerFailed) as failed:
            await run(backend, request())
        assert "refuses our key" in caplog.text
        assert {one.headers["Authorization"] for one in server.received} == {"Bearer s3cret"}
        assert "s3cret" not in caplog.text + failed.value.message + repr(backend.models)


OWN = [
    (request(model="other"), ModelNotFound),
    (request(digest="sha256:" + "0" * 64), ModelNotFound),
    (request(echo=True), FeatureMissing),
    (request(max_tokens=1000), ContextOverflow),
    (request(prompt=TextPrompt("a" * 4_000_000)), ContextOverflow),
]


@pytest.mark.parametrize(("asked", "error"), OWN)
async def test_what_we_refuse_ourselves_costs_the_server_nothing(
    asked: GenerateRequest, error: type[P2PNetError]
) -> None:
    async with serving({CHAT: Reply(ANSWER)}) as (backend, server):
        with pytest.raises(error):
            await anext(backend.generate(asked))
        assert server.asked(CHAT) == []


async def test_an_answer_that_we_have_cut_is_not_waited_for() -> None:
    async with serving({CHAT: Reply(ANSWER[:2], then="wait")}) as (backend, server):
        _, *rest = await run(backend, request(stop=("lo",)))
        assert rest == [TextDelta("Hé", tokens=1), TextDelta("l", tokens=1), Finished("stop", Usage(6, 2), stop="lo")]
        await asyncio.wait_for(server.left.wait(), 5)


async def test_one_connection_serves_request_after_request() -> None:
    async with serving({CHAT: Reply(ANSWER)}) as (backend, server):
        for _ in range(5):
            await run(backend, request())
        assert len({one.connection for one in server.asked(CHAT)}) == 1


async def test_sockets_do_not_delay_small_packets() -> None:
    with no_delay_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 1))) as made:
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_tools_are_withdrawn_when_the_server_was_started_without_them() -> None:
    refused = json_reply({"error": {"message": '"auto" tool choice requires --enable-auto-tool-choice'}}, 400)
    with_tools = request(prompt=ChatPrompt(HELLO.messages, (Tool("look"),)))
    async with serving({CHAT: [refused, Reply(ANSWER)]}) as (backend, server):
        assert "tools" in backend.models[0].features
        with pytest.raises(FeatureMissing):
            await run(backend, with_tools)
        assert "tools" not in backend.models[0].features
        await backend.refresh()
        assert "tools" not in backend.models[0].features
        with pytest.raises(FeatureMissing):
            await run(backend, with_tools)
        assert len(server.asked(CHAT)) == 1
        assert (await run(backend, request()))[1:] == EXPECTED


class Turns:
    """A sleep that ends when a test says so."""

    def __init__(self) -> None:
        self._turn = asyncio.Event()

    async def __call__(self, duration_s: float) -> None:
        await self._turn.wait()
        self._turn.clear()

    def end(self) -> None:
        self._turn.set()


def ids(backend: Backend) -> list[str]:
    return [card.id for card in backend.models]


async def until(is_so: Callable[[], bool]) -> None:
    """Some turns of the loop wait for the other end of a socket."""
    await settle(is_so, max_turns=100_000)


async def test_models_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    turns = Turns()
    two = model_list({"id": "m"}, {"id": "org/n:q4"})
    async with serving({}, turns) as (backend, server):
        assert ids(backend) == ["m"]
        server.replies[MODELS] = [two]
        turns.end()
        await until(lambda: ids(backend) == ["m", "org/n:q4"])
        server.replies[MODELS] = [json_reply({}, 500)]
        turns.end()
        await until(lambda: ids(backend) == [])
        for _ in range(3):
            await backend.refresh()
        server.replies[MODELS] = [two]
        turns.end()
        await until(lambda: ids(backend) == ["m", "org/n:q4"])
        assert caplog.text.count("is away") == 1
        assert caplog.text.count("is back") == 1


async def test_a_model_that_is_gone_is_asked_about_at_once() -> None:
    turns = Turns()
    async with serving({CHAT: json_reply({"error": "not found"}, 404)}, turns) as (backend, server):
        server.replies[MODELS] = [model_list({"id": "n"})]
        with pytest.raises(ModelNotFound):
            await run(backend, request())
        await until(lambda: ids(backend) == ["n"])


async def test_a_server_that_is_gone_has_no_models() -> None:
    async with scripted({MODELS: M, CHAT: Reply(ANSWER)}) as server:
        backend = await UpstreamBackend.open(UpstreamOptions(server.url))
        assert ids(backend) == ["m"]
    with pytest.raises(WorkerFailed, match="no answer"):
        await run(backend, request())
    await until(lambda: ids(backend) == [])
    await backend.close()


ODD_LISTS = [b"{}", b"[]", b"garbage", b'{"data": [{"id": 5}]}', b" " * (MAX_LIST_BYTES + 1)]


@pytest.mark.parametrize("body", ODD_LISTS, ids=range(len(ODD_LISTS)))
async def test_a_list_that_cannot_be_read_is_no_list(body: bytes) -> None:
    async with serving({}) as (backend, server):
        server.replies[MODELS] = [Reply((body,))]
        await backend.refresh()
        assert ids(backend) == []


SEEN = request(prompt=ChatPrompt((Message("user", "what?", images=(ImagePart(png(), 5),)),)))
SHOWN = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": data_url(png())}}]


async def test_images_are_passed_on_where_the_owner_says_so() -> None:
    """vLLM says nothing of what its models read."""
    models = {MODELS: model_list({"id": "m"}, {"id": "other"}), CHAT: Reply(ANSWER)}
    async with serving(models, readers=["m"]) as (backend, server):
        assert ["images" in card.features for card in backend.models] == [True, False]
        assert (await run(backend, SEEN))[1:] == EXPECTED
        (asked,) = server.asked(CHAT)
        assert asked.json["messages"] == [{"role": "user", "content": SHOWN}]
        with pytest.raises(FeatureMissing, match="cannot read images here"):
            await run(backend, msgspec.structs.replace(SEEN, model="other"))
        for images in ((ImagePart(b"<svg/>"),), (ImagePart(png(), 6),)):
            with pytest.raises(InvalidRequest):
                await run(backend, request(prompt=ChatPrompt((Message("user", "what?", images=images),))))
        assert len(server.asked(CHAT)) == 1


LM_STUDIO = [{"id": name, "owned_by": "organization_owner"} for name in ("m", "other", "new")]
DESCRIBED = {"data": [{"id": "m", "type": "vlm"}, {"id": "other", "type": "llm"}, {"id": "gone", "type": "vlm"}]}


@pytest.mark.parametrize(
    ("described", "readers"),
    [
        (json_reply(DESCRIBED), ["m"]),
        (json_reply({}, 404), []),
        (Reply((b"<html>",)), []),
        (json_reply({"data": 3}), []),
    ],
)
async def test_lm_studio_says_which_of_its_models_read_images(described: Reply, readers: list[str]) -> None:
    replies = {MODELS: model_list(*LM_STUDIO), "/api/v0/models": described, CHAT: Reply(ANSWER)}
    async with serving(replies) as (backend, server):
        assert [card.id for card in backend.models if "images" in card.features] == readers
        if readers:
            await run(backend, SEEN)
            assert server.asked(CHAT)[0].json["messages"][0]["content"] == SHOWN


async def test_what_cannot_be_announced_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    models = [{"id": "模型"}, {"id": "m\x1b[31m"}, *({"id": f"m{number}"} for number in range(MAX_OFFERS + 2))]
    async with serving({MODELS: model_list(*models), CHAT: Reply(ANSWER)}) as (backend, _):
        await backend.refresh()
        assert ids(backend) == [f"m{number}" for number in range(MAX_OFFERS)]
        assert caplog.text.count("is not announced: its name cannot be; name it with --served-name OLD=NEW") == 2
        assert caplog.text.count(f"'m{MAX_OFFERS + 1}'") == 1
        assert "\x1b" not in caplog.text


async def test_a_model_is_announced_under_a_name_that_can_be_and_asked_for_under_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whose name needs no cleaning has it."""
    models = [{"id": "/home/ann/my model.gguf"}, {"id": "my-model.gguf"}, {"id": "模型"}, {"id": "plain"}]
    models += [{"id": "/home/ann/other.gguf"}]
    async with serving(
        {MODELS: model_list(*models), CHAT: Reply(ANSWER)}, names={"模型": "model", "plain": "org/plain"}
    ) as (backend, server):
        await backend.refresh()
        assert ids(backend) == ["my-model.gguf", "model", "org/plain", "other.gguf"]
        assert backend.names_there == {"my-model.gguf", "模型", "plain", "/home/ann/other.gguf"}
        assert "'/home/ann/my model.gguf' of http" in caplog.text and "another is already my-model.gguf" in caplog.text
        for announced, there in (
            ("my-model.gguf", "my-model.gguf"),
            ("model", "模型"),
            ("other.gguf", "/home/ann/other.gguf"),
            ("org/plain", "plain"),
        ):
            await run(backend, request(model=announced))
            assert json.loads(server.asked(CHAT)[-1].body)["model"] == there
        with pytest.raises(ModelNotFound):
            await run(backend, request(model="plain"))


async def test_a_server_without_chats_announces_texts_only() -> None:
    async with serving({}) as (backend, _):
        assert "chat" not in backend.models[0].features
        assert "text" in backend.models[0].features


async def test_speed_is_measured_over_many_answers() -> None:
    async with serving({CHAT: Reply(ANSWER)}) as (backend, _):
        await run(backend, request())
        load = backend.load
        assert (load.kv_total_tokens, load.decode_tokens_per_s.sampled_ms) == (0, 0), "too short to tell"


async def test_opening_needs_a_server() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for kind in (None, *Kind):
            with pytest.raises(UsageError, match="No server answers") as refused:
                await UpstreamBackend.open(UpstreamOptions(url, kind))
            assert refused.value.fix


NOT_SERVERS = [
    ({}, {}, "neither like Ollama"),
    ({MODELS: json_reply({"hello": 1})}, {}, "neither like Ollama"),
    ({MODELS: json_reply({}, 401)}, {}, "refuses our key"),
    ({MODELS: json_reply({}, 401)}, {"kind": Kind.openai}, "refuses our key"),
    ({}, {"kind": Kind.openai}, "with status 404"),
    ({}, {"kind": Kind.ollama}, "with status 404"),
    ({MODELS: M}, {"key": "a\nb"}, "key cannot be sent"),
    ({MODELS: M}, {"key": ""}, "key cannot be sent"),
]


@pytest.mark.parametrize(("replies", "options", "words"), NOT_SERVERS)
async def test_opening_says_what_is_wrong(
    replies: dict[str, Reply | list[Reply]], options: dict[str, Any], words: str
) -> None:
    async with scripted(replies) as server:
        with pytest.raises(UsageError, match=words):
            await UpstreamBackend.open(UpstreamOptions(server.url, **options))


async def test_a_url_may_end_in_v1() -> None:
    async with scripted({MODELS: M, CHAT: Reply(ANSWER)}) as server:
        for end in ("/v1", "/v1/", "/"):
            backend = await UpstreamBackend.open(UpstreamOptions(server.url + end))
            assert ids(backend) == ["m"]
            await backend.close()


async def test_proxies_of_the_environment_are_not_used() -> None:
    """A worker that is started with HTTP_PROXY set must not send strangers' prompts there."""
    script = (
        "import asyncio, sys\n"
        "from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions\n"
        "async def main():\n"
        "    backend = await UpstreamBackend.open(UpstreamOptions(sys.argv[1]))\n"
        "    print(*(card.id for card in backend.models))\n"
        "    await backend.close()\n"
        "asyncio.run(main())\n"
    )
    async with scripted({MODELS: M, CHAT: Reply(ANSWER)}) as server:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, server.url),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "NO_PROXY": ""},
        )
        output, _ = await child.communicate()
    assert output.decode().split() == ["m"]
