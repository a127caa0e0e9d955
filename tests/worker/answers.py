"""What tests of the engine share: models loaded once, and a backend's answers put together as a client puts them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pnet.messages import Finished, GenerateRequest, Prompt, TextDelta, TextPrompt, TokenLogprob, ToolCallDelta, Usage
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.backends.transformers import EngineOptions, TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model
from p2pnet.worker.engine.runner import kv_bytes_per_token, make_runner
from p2pnet.worker.engine.scheduler import SchedulerLimits
from tests.checkpoints import build_checkpoint

PLENTY_OF_TOKENS = 16_384


class Models:
    """Builds and loads each small checkpoint once for each dtype, on the CPU. No test may change one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[tuple[str, str], LoadedModel] = {}

    def __call__(self, name: str, dtype: str = "float32") -> LoadedModel:
        if (name, dtype) not in self._loaded:
            place = find_folder("tiny") if name == "tiny" else self._folder / name
            if not place.exists():
                build_checkpoint(name, place)
            self._loaded[name, dtype] = load_model(place, "cpu", dtype, HashCache(self._folder))
        return self._loaded[name, dtype]


def serve(
    loaded: LoadedModel, limits: SchedulerLimits | None = None, kv_tokens: int = PLENTY_OF_TOKENS
) -> TransformersBackend:
    """The model as `m`, with memory for so many tokens."""
    options = EngineOptions(kv_bytes=kv_tokens * bytes_per_token(loaded), limits=limits or SchedulerLimits())
    return TransformersBackend(loaded, "m", lambda: 0, options)


def bytes_per_token(loaded: LoadedModel) -> int:
    return kv_bytes_per_token(make_runner(loaded.model), loaded.model)


def ask(prompt: Prompt | str = "Once upon a time", **fields: Any) -> GenerateRequest:
    return GenerateRequest("r", "m", TextPrompt(prompt) if isinstance(prompt, str) else prompt, **fields)


@dataclass(frozen=True)
class Choice:
    """One answer. `logprobs` and `pieces` of tool calls in their order; `clean` says after how many ids a delta ended,
    and how much text and how many pieces were out by then."""

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    pieces: tuple[ToolCallDelta, ...]
    clean: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Answer:
    """All choices, the echo of each as if it were one, and the end; `finished` is None where it was cut short."""

    choices: tuple[Choice, ...]
    echoes: tuple[Choice, ...]
    finished: Finished | None

    @property
    def reasons(self) -> tuple[str, ...]:
        assert self.finished is not None
        return (self.finished.reason, *self.finished.other_reasons)

    @property
    def usage(self) -> Usage:
        assert self.finished is not None
        return self.finished.usage


def joined(events: Iterable[BackendEvent], n: int = 1) -> Answer:
    known = list(events)
    deltas = [event for event in known if isinstance(event, TextDelta)]
    return Answer(
        tuple(
            _choice(delta for delta in deltas if delta.choice == index and not delta.is_prompt) for index in range(n)
        ),
        tuple(_choice(delta for delta in deltas if delta.choice == index and delta.is_prompt) for index in range(n)),
        known[-1] if known and isinstance(known[-1], Finished) else None,
    )


def _choice(deltas: Iterable[TextDelta]) -> Choice:
    ids: list[int] = []
    text = ""
    logprobs: list[TokenLogprob] = []
    pieces: list[ToolCallDelta] = []
    clean = []
    for delta in deltas:
        ids.extend(delta.token_ids)
        text += delta.text
        logprobs.extend(delta.logprobs)
        pieces.extend(delta.tool_calls)
        if delta.token_ids:
            clean.append((len(ids), len(text), len(pieces)))
    return Choice(tuple(ids), text, tuple(logprobs), tuple(pieces), tuple(clean))


async def events_of(backend: TransformersBackend, request: GenerateRequest) -> list[BackendEvent]:
    return [event async for event in backend.generate(request)]


async def answer(backend: TransformersBackend, request: GenerateRequest) -> Answer:
    return joined(await events_of(backend, request), request.n)
