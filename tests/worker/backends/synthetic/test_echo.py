"""The echo backend keeps the Backend contract, and holds, waits and fails where it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest, ModelNotFound, WorkerFailed
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    Prompt,
    TextDelta,
    TextPrompt,
    TokenPrompt,
)
from p2pnet.worker.backend import Backend, BackendEvent
from p2pnet.worker.backends.synthetic.echo import ECHO_DIGEST, EchoBackend, EchoOptions

NUMBERS = EchoOptions(says="numbers")
HELLO = TextPrompt("Hello there,  you")
CHAT = ChatPrompt((Message("user", "a"), Message("user", "b c")))


def request(prompt: Prompt = HELLO, **fields: Any) -> GenerateRequest:
    return GenerateRequest("r1", fields.pop("model", "echo"), prompt, **fields)


async def run(backend: Backend, asked: GenerateRequest) -> list[BackendEvent]:
    return [event async for event in backend.generate(asked)]


def text_of(events: list[BackendEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


CASES = [
    ("a text", EchoOptions(), request(), "Hello there,  you", "stop", 3),
    ("the last message", EchoOptions(), request(CHAT), "b c", "stop", 2),
    ("ids", EchoOptions(), request(TokenPrompt((7, 8))), "7 8", "stop", 2),
    ("an empty text", EchoOptions(), request(TextPrompt("")), "", "stop", 0),
    ("spaces at the end", EchoOptions(), request(TextPrompt(" a b \n")), " a b \n", "stop", 3),
    ("max_tokens", EchoOptions(), request(max_tokens=2), "Hello there,", "length", 2),
    ("a stop string", EchoOptions(), request(stop=("re,",)), "Hello the", "stop", 2),
    ("a stop string across words", EchoOptions(), request(stop=("o t",)), "Hell", "stop", 2),
    ("a stop token", EchoOptions(), request(stop_token_ids=(1,)), "Hello", "stop", 2),
    ("after ids", EchoOptions(), request(resume_tokens=(0,)), " there,  you", "stop", 3),
    ("after all of it", EchoOptions(), request(resume_tokens=(0, 1, 2)), "", "stop", 3),
    ("after as much as was asked for", EchoOptions(), request(resume_tokens=(0, 1), max_tokens=2), "", "length", 2),
    ("after a text", EchoOptions(), request(resume_text="Hello"), " there,  you", "stop", 2),
    ("after a part of a word", EchoOptions(), request(resume_text="Hello the"), "re,  you", "stop", 2),
    ("so much after a text", EchoOptions(), request(resume_text="Hello", max_tokens=1), " there,", "length", 1),
    ("after all of the text", EchoOptions(), request(resume_text="Hello there,  you"), "", "stop", 0),
    ("numbers after ids", NUMBERS, request(resume_tokens=(0, 1), max_tokens=3), "tok2 ", "length", 3),
    ("numbers after a text", NUMBERS, request(resume_text="tok0 to", max_tokens=2), "k1 tok2 ", "length", 2),
    ("numbers", NUMBERS, request(max_tokens=3), "tok0 tok1 tok2 ", "length", 3),
    ("numbers until a stop string", NUMBERS, request(max_tokens=9, stop=("2",)), "tok0 tok1 tok", "stop", 3),
]


@pytest.mark.parametrize(
    ("options", "asked", "text", "reason", "tokens"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_cases(options: EchoOptions, asked: GenerateRequest, text: str, reason: str, tokens: int) -> None:
    events = await run(EchoBackend(options), asked)
    accepted, *deltas, finished = events
    assert isinstance(accepted, Accepted) and accepted.digest == ECHO_DIGEST
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    assert text_of(events) == text
    assert isinstance(finished, Finished) and finished.reason == reason
    assert finished.usage.completion_tokens == tokens
    assert finished.usage.prompt_tokens == accepted.prompt_tokens > 0


async def test_without_max_tokens_numbers_fill_the_context() -> None:
    finished = (await run(EchoBackend(EchoOptions(says="numbers", context_length=10)), request()))[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    assert finished.usage.prompt_tokens + finished.usage.completion_tokens == 10


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        (request(max_tokens=4096, clamp_max_tokens=True), 7),
        (request(max_tokens=2, clamp_max_tokens=True), 2),
        (request(resume_text="tok0 tok1 ", max_tokens=9, clamp_max_tokens=True), 5),
        (request(resume_tokens=(0, 1), max_tokens=4096, clamp_max_tokens=True), 7),
    ],
)
async def test_a_clamped_limit_ends_the_answer_where_the_context_ends(asked: GenerateRequest, tokens: int) -> None:
    finished = (await run(EchoBackend(EchoOptions(says="numbers", context_length=10)), asked))[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage.completion_tokens) == ("length", tokens)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (request(model="other"), ModelNotFound),
        (request(digest="sha256:" + "0" * 64), ModelNotFound),
        (request(max_tokens=4096), ContextOverflow),
        (request(TextPrompt("a " * 5000)), ContextOverflow),
        (request(logprobs=0), FeatureMissing),
        (request(n=2), FeatureMissing),
        (request(resume_tokens=(1,)), InvalidRequest),
        (request(resume_tokens=(0, 1, 2, 3)), InvalidRequest),
        (request(resume_tokens=(0, 1), max_tokens=1), InvalidRequest),
        (request(resume_tokens=(0,), resume_text="Hello"), InvalidRequest),
        (request(resume_text="x" * (1 << 20)), InvalidRequest),
        (request(resume_text="Hullo"), FeatureMissing),
        (request(resume_text="Hello", max_tokens=4093), ContextOverflow),
    ],
)
async def test_refused_before_accepted(asked: GenerateRequest, error: type[Exception]) -> None:
    with pytest.raises(error):
        await anext(EchoBackend().generate(asked))


async def test_it_fails_where_it_is_told_to() -> None:
    backend = EchoBackend(EchoOptions(fails_after_tokens=2))
    seen: list[BackendEvent] = []
    with pytest.raises(WorkerFailed):
        async for event in backend.generate(request()):
            seen.append(event)
    assert text_of(seen) == "Hello there,"
    assert backend.running == 0


async def test_each_worker_that_goes_on_fails_after_so_many_tokens_of_its_own() -> None:
    backend = EchoBackend(EchoOptions(fails_after_tokens=2))
    seen: list[BackendEvent] = []
    with pytest.raises(WorkerFailed):
        async for event in backend.generate(request(TextPrompt("a b c d e"), resume_tokens=(0,))):
            seen.append(event)
    assert text_of(seen) == " b c"


async def test_it_waits_before_each_token() -> None:
    slept: list[float] = []

    async def sleep(duration_s: float) -> None:
        slept.append(duration_s)

    await run(EchoBackend(EchoOptions(delay_s=0.5), sleep=sleep), request())
    assert slept == [0.5, 0.5, 0.5]


async def test_a_gate_holds_it_and_closing_lets_go() -> None:
    arrived = asyncio.Event()

    async def gate(index: int) -> None:
        if index == 1:
            arrived.set()
            await asyncio.Event().wait()

    backend = EchoBackend(gate=gate)
    events = backend.generate(request())
    assert isinstance(await anext(events), Accepted)
    assert await anext(events) == TextDelta("Hello", (0,))
    held = asyncio.ensure_future(anext(events))
    await arrived.wait()
    assert backend.running == 1
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    assert backend.running == 0
