"""Reads models from a file that describes their answers: `p2pnet serve --script`. For testing clients against a real
network.

The file is data, a list of models, and is checked whole before anything is served. Knows nothing of torch.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from p2pnet.embed_messages import MAX_DIMENSIONS, Embedding, EmbedRequest
from p2pnet.errors import ContextOverflow, InvalidRequest, UsageError, WorkerFailed
from p2pnet.features import EMBEDDING
from p2pnet.messages import Accepted, ChatPrompt, Finished, GenerateRequest, ModelId, TextPrompt, TokenPrompt, Usage
from p2pnet.records import ModelCard
from p2pnet.worker.backend import EmbedBackendEvent
from p2pnet.worker.backends.served import check_model
from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions
from p2pnet.worker.backends.synthetic.one_model import OneModel
from p2pnet.worker.backends.synthetic.scripted import Call, Said, Script, ScriptedBackend

SEED_MARK = "$seed"
"""In a text: the request's seed, which tells a test what arrived."""

Sleep = Callable[[float], Awaitable[None]]


class ScriptedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of a tool: by default of the first tool that is offered. `arguments` is an object, or a text that need not
    be JSON."""

    arguments: dict[str, Any] | str = "{}"
    name: str | None = None


class ScriptedAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said, and `when`: if JSON is asked for, after a tool's result, if tools are offered, or always."""

    when: Literal["json", "result", "tools", "always"] = "always"
    text: str = ""
    calls: tuple[ScriptedCall, ...] = ()


class ScriptedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model. It gives the first of its `answers` that fits, or vectors with `dimensions` numbers, or repeats what
    it is told. `fails_after_tokens` and `token_delay_s` are for those that answer."""

    model: ModelId
    answers: tuple[ScriptedAnswer, ...] = ()
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    context_length: Annotated[int, Meta(ge=1, le=1 << 20)] = 4096
    fails_after_tokens: Annotated[int, Meta(ge=0)] | None = None
    token_delay_s: Annotated[float, Meta(ge=0, le=60)] = 0.0

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(b"p2pnet/script/1" + msgspec.json.encode(self)).hexdigest()


@dataclass(frozen=True)
class ScriptedModels:
    """The backends that a file of scripts describes."""

    backends: Sequence[ScriptedBackend | EchoBackend]
    embedders: Sequence[ScriptedEmbedder]


def read_scripts(path: Path) -> tuple[ScriptedModel, ...]:
    """Read the models of a file. Raises UsageError, which says what is wrong with the file and where."""
    fix = "See docs/clients.md for what a script looks like."
    try:
        models = msgspec.json.decode(path.read_bytes(), type=tuple[ScriptedModel, ...])
    except OSError as error:
        raise UsageError(f"The script {path} cannot be read: {error.strerror}.", "Name another --script.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"The script {path} is not understood: {error}.", fix) from error
    for model in models:
        if model.answers and model.dimensions:
            raise UsageError(f"The model {model.model} of {path} has answers and dimensions: it is one or other.", fix)
    if not models:
        raise UsageError(f"The script {path} has no models.", fix)
    return models


def open_scripts(models: Sequence[ScriptedModel], sleep: Sleep = asyncio.sleep) -> ScriptedModels:
    """The backends of these models."""
    return ScriptedModels(
        [_backend(model, sleep) for model in models if model.dimensions is None],
        [ScriptedEmbedder(model, model.dimensions) for model in models if model.dimensions is not None],
    )


class ScriptedEmbedder(OneModel):
    """Turns a text into a vector of length 1 by its hash: the same text has the same vector."""

    def __init__(self, model: ScriptedModel, dimensions: int) -> None:
        super().__init__(ModelCard(model.model, model.digest, model.context_length, "embed", features=EMBEDDING))
        self._dimensions = dimensions

    async def embed(self, request: EmbedRequest) -> AsyncGenerator[EmbedBackendEvent, None]:
        """Yields Accepted, Embedding in order, Finished; see EmbedBackend."""
        check_model(request, self._card)
        dimensions = request.dimensions or self._dimensions
        if dimensions > self._dimensions:
            raise InvalidRequest(f"The model's vectors have only {self._dimensions} dimensions.", "dimensions")
        counts = [_count(text) for text in request.inputs]
        if not request.truncate and max(counts) > self._card.context_length:
            raise ContextOverflow.by_prompt(self._card.context_length, max(counts))
        tokens = sum(counts)
        yield Accepted(tokens, self._card.digest)
        for index, text in enumerate(request.inputs):
            yield Embedding(index, vector_of(text, dimensions))
        yield Finished("stop", Usage(tokens, 0))


def vector_of(text: TextPrompt | TokenPrompt, dimensions: int) -> bytes:
    """The vector in float32, little-endian. A shorter vector is the longer one, cut and normalised again."""
    numbers = hashlib.shake_256(msgspec.msgpack.encode(text)).digest(2 * dimensions)
    found = [number / 32768 - 1 for number in struct.unpack(f"<{dimensions}H", numbers)]
    length = math.hypot(*found) or 1.0
    return struct.pack(f"<{dimensions}f", *(number / length for number in found))


def script_of(answers: Sequence[ScriptedAnswer]) -> Script:
    """A script that gives the first answer that fits, and says nothing where none does."""

    def script(request: GenerateRequest) -> Said:
        fitting = next((answer for answer in answers if _fits(answer, request)), ScriptedAnswer())
        text = fitting.text.replace(SEED_MARK, str(request.sampling.seed))
        return Said(text, tuple(_call(call, request) for call in fitting.calls))

    return script


def _backend(model: ScriptedModel, sleep: Sleep) -> ScriptedBackend | EchoBackend:
    if not model.answers:
        options = EchoOptions(
            model.model,
            model.context_length,
            delay_s=model.token_delay_s,
            fails_after_tokens=model.fails_after_tokens,
        )
        return EchoBackend(options, sleep)

    async def gate(index: int) -> None:
        if model.token_delay_s:
            await sleep(model.token_delay_s)
        if model.fails_after_tokens is not None and index >= model.fails_after_tokens:
            raise WorkerFailed("the script says that the model fails here")

    return ScriptedBackend(script_of(model.answers), model.model, model.context_length, gate, model.digest)


def _fits(answer: ScriptedAnswer, request: GenerateRequest) -> bool:
    chat = request.prompt if isinstance(request.prompt, ChatPrompt) else ChatPrompt(())
    is_so = {
        "json": request.response_format is not None,
        "result": bool(chat.messages) and chat.messages[-1].role == "tool",
        "tools": bool(chat.tools),
    }
    return is_so.get(answer.when, True)


def _call(call: ScriptedCall, request: GenerateRequest) -> Call:
    tools = request.prompt.tools if isinstance(request.prompt, ChatPrompt) else ()
    name = call.name or (tools[0].name if tools else "nothing")
    is_text = isinstance(call.arguments, str)
    return Call(name, call.arguments if is_text else msgspec.json.encode(call.arguments).decode())  # type: ignore[arg-type]


def _count(text: TextPrompt | TokenPrompt) -> int:
    return len(text.token_ids) if isinstance(text, TokenPrompt) else len(text.text.split()) or 1
