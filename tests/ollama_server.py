"""A test server for Ollama, written from its documented API (docs/api.md, and the handlers in server/routes.go).

It is not Ollama and runs no model: a "model" says the last message back word by word, a word is a token, and it behaves
as Ollama does around that: names, options and their defaults, errors and their status, streams and their last line.
What it cannot do it refuses as Ollama refuses it; what Ollama ignores, it ignores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.scripted_server import serve_application

VERSION = "0.13.5"
DEFAULT_CONTEXT = 4096
CREATED = "2026-01-01T00:00:00.000000Z"
DEFAULT_OPTIONS = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "repeat_penalty": 1.1,
    "num_predict": -1,
}


@dataclass(frozen=True)
class Model:
    """A model that has been pulled. `thinks` says so before each answer, `calls` answers each offered tool's name."""

    name: str
    digest: str = "ab" * 32
    capabilities: tuple[str, ...] = ("completion",)
    quantization: str = "Q4_K_M"
    trained_context: int = 131072
    parameters: str = ""
    remote_host: str = ""


@dataclass
class State:
    """What a test sees and sets."""

    models: dict[str, Model]
    loaded: dict[str, int] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    shows: list[str] = field(default_factory=list)
    is_full: bool = False
    fails_after_tokens: int | None = None
    waits_after_tokens: int | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""


@contextlib.asynccontextmanager
async def ollama(*models: Model) -> AsyncIterator[State]:
    """A running server with these models."""
    state = State({model.name: model for model in models})
    routes = _Routes(state)
    application = web.Application(client_max_size=1 << 24)
    application.add_routes(
        [
            web.get("/", routes.root),
            web.get("/api/version", routes.version),
            web.get("/api/tags", routes.tags),
            web.get("/api/ps", routes.running),
            web.post("/api/show", routes.show),
            web.post("/api/chat", routes.chat),
            web.post("/api/generate", routes.generate),
        ]
    )
    async with serve_application(application) as url:
        state.url = url
        yield state


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Routes:
    def __init__(self, state: State) -> None:
        self._state = state

    async def root(self, request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def tags(self, request: web.Request) -> web.Response:
        return web.json_response({"models": [_listed(model) for model in self._state.models.values()]})

    async def running(self, request: web.Request) -> web.Response:
        models = [self._state.models[name] for name in self._state.loaded if name in self._state.models]
        return web.json_response(
            {
                "models": [
                    {**_listed(model), "size_vram": 0, "context_length": self._state.loaded[model.name]}
                    for model in models
                ]
            }
        )

    async def show(self, request: web.Request) -> web.Response:
        fields = json.loads(await request.read())
        self._state.shows.append(fields["model"])
        try:
            model = self._find(fields)
        except _Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
        return web.json_response(
            {
                "modelfile": f"FROM {model.name}",
                "parameters": model.parameters,
                "template": "{{ .Prompt }}",
                "details": _details(model),
                "model_info": {
                    "general.architecture": "llama",
                    "llama.context_length": model.trained_context,
                    "tokenizer.ggml.tokens": None,
                },
                "capabilities": list(model.capabilities),
            }
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, is_chat=True)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, is_chat=False)

    async def _answer(self, request: web.Request, is_chat: bool) -> web.StreamResponse:
        try:
            fields = json.loads(await request.read())
        except json.JSONDecodeError as error:
            return web.json_response({"error": str(error)}, status=400)
        self._state.requests.append(fields)
        try:
            model = self._find(fields)
            answer = _Answer(model, fields, is_chat, self._state)
        except _Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
        if fields.get("stream") is False:
            return web.json_response(answer.whole())
        return await self._stream(request, answer)

    async def _stream(self, request: web.Request, answer: _Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for sent, said in enumerate(answer.lines()):
            if sent == self._state.fails_after_tokens:
                await response.write(b'{"error":"an error was encountered while running the model"}\n')
                return response
            if sent == self._state.waits_after_tokens:
                await self._wait()
            await response.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")
        return response

    async def _wait(self) -> None:
        self._state.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._state.left.set()

    def _find(self, fields: dict[str, Any]) -> Model:
        name = fields["model"]
        model = self._state.models.get(name) or self._state.models.get(f"{name}:latest")
        if model is None:
            raise _Refused(404, f"model '{name}' not found")
        return model


class _Answer:
    """One generation, checked as Ollama checks it."""

    def __init__(self, model: Model, fields: dict[str, Any], is_chat: bool, state: State) -> None:
        self._model = model
        self._is_chat = is_chat
        self._fields = fields
        self._options = DEFAULT_OPTIONS | fields.get("options", {})
        self._tools = fields.get("tools", [])
        self._check()
        if state.is_full:
            raise _Refused(503, "server busy, please try again.  maximum pending requests exceeded")
        context = min(self._options.get("num_ctx") or _own_context(model), model.trained_context)
        state.loaded[model.name] = context
        self._prompt_tokens = self._fit(context)
        room = context - self._prompt_tokens
        predict = self._options["num_predict"]
        self._max_tokens = min(room, predict) if predict > 0 else room

    def whole(self) -> dict[str, Any]:
        *said, last = self.lines()
        return last | self._said(
            "".join(line["message"]["content"] if self._is_chat else line["response"] for line in said)
        )

    def lines(self) -> Iterator[dict[str, Any]]:
        if not self._prompt():
            yield self._line(self._said(""), done=True, done_reason="load")
            return
        thinks = "thinking" in self._model.capabilities and self._fields.get("think") is not False
        if thinks:
            yield self._line(self._thought("hm"))
        if self._tools:
            for tool in self._tools:
                yield self._line(self._called(tool["function"]["name"]))
            yield self._last("stop", len(self._tools))
            return
        words, reason = self._words()
        for word in words:
            yield self._line(self._said(word) | self._logprobs(word))
        yield self._last(reason, len(words) + thinks)

    def _check(self) -> None:
        what = "chat" if self._is_chat else "generate"
        if "completion" not in self._model.capabilities:
            raise _Refused(400, f'"{self._model.name}" does not support {what}')
        if self._tools and "tools" not in self._model.capabilities:
            raise _Refused(400, f"registry.ollama.ai/library/{self._model.name} does not support tools")
        if self._fields.get("think") and "thinking" not in self._model.capabilities:
            raise _Refused(400, f'"{self._model.name}" does not support thinking')
        if not 0 <= self._fields.get("top_logprobs", 0) <= 20:
            raise _Refused(400, "top_logprobs must be between 0 and 20")
        for message in self._fields.get("messages", []):
            for call in message.get("tool_calls", []):
                if not isinstance(call["function"]["arguments"], dict):
                    raise _Refused(400, "json: cannot unmarshal string into Go struct field .arguments")

    def _fit(self, context: int) -> int:
        """The prompt's tokens: without `truncate` false a long prompt loses its beginning, and nobody is told."""
        tokens = len(self._prompt().split())
        if tokens < context:
            return tokens
        if self._fields.get("truncate") is False:
            raise _Refused(400, "the input length exceeds the context length")
        return context // 2

    def _prompt(self) -> str:
        if self._is_chat:
            return " ".join(message["content"] for message in self._fields["messages"])
        return str(self._fields.get("prompt", ""))

    def _words(self) -> tuple[list[str], str]:
        """What it says, up to a stop string or the limit, and why it ends."""
        text = self._fields["messages"][-1]["content"] if self._is_chat else self._prompt()
        if self._fields.get("format"):
            text = json.dumps({"said": text})
        words = [word if index == 0 else f" {word}" for index, word in enumerate(text.split(" "))]
        stops = [text.find(stop) for stop in self._options.get("stop", []) if stop in text]
        if stops:
            kept = text[: min(stops)]
            words = [word if index == 0 else f" {word}" for index, word in enumerate(kept.split(" "))]
        if len(words) > self._max_tokens:
            return words[: self._max_tokens], "length"
        return words, "stop"

    def _logprobs(self, word: str) -> dict[str, Any]:
        if not self._fields.get("logprobs"):
            return {}
        token = {"token": word, "logprob": -0.25, "bytes": list(word.encode())}
        return {"logprobs": [token | {"top_logprobs": [token] * self._fields.get("top_logprobs", 0)}]}

    def _said(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if self._is_chat else {"response": text}

    def _thought(self, text: str) -> dict[str, Any]:
        if self._is_chat:
            return {"message": {"role": "assistant", "content": "", "thinking": text}}
        return {"response": "", "thinking": text}

    def _called(self, name: str) -> dict[str, Any]:
        call = {"function": {"index": 0, "name": name, "arguments": {"said": self._fields["messages"][-1]["content"]}}}
        return {"message": {"role": "assistant", "content": "", "tool_calls": [call]}}

    def _line(self, said: dict[str, Any], done: bool = False, **more: Any) -> dict[str, Any]:
        return {"model": self._fields["model"], "created_at": CREATED, **said, "done": done, **more}

    def _last(self, reason: str, tokens: int) -> dict[str, Any]:
        return self._line(
            self._said(""),
            done=True,
            done_reason=reason,
            total_duration=5_000_000,
            load_duration=1_000_000,
            prompt_eval_count=self._prompt_tokens,
            prompt_eval_duration=1_000_000,
            eval_count=tokens,
            eval_duration=3_000_000,
        )


def _own_context(model: Model) -> int:
    for line in model.parameters.splitlines():
        name, _, value = line.partition(" ")
        if name == "num_ctx":
            return int(value)
    return DEFAULT_CONTEXT


def _details(model: Model) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "8.0B",
        "quantization_level": model.quantization,
    }


def _listed(model: Model) -> dict[str, Any]:
    listed = {
        "name": model.name,
        "model": model.name,
        "modified_at": CREATED,
        "size": 1,
        "digest": model.digest,
        "details": _details(model),
    }
    return listed | ({"remote_host": model.remote_host, "remote_model": "big"} if model.remote_host else {})
