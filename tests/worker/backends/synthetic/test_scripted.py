"""The scripted backend keeps the Backend contract: every way into an answer, and out of it."""

from __future__ import annotations

from typing import Any

import pytest

from p2pnet.errors import ContextOverflow, InvalidRequest, ModelNotFound, WorkerFailed
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    Sampling,
    TextDelta,
    TextPrompt,
    ToolCall,
    choice_seed,
)
from p2pnet.worker.backend import Backend, BackendEvent
from p2pnet.worker.backends.synthetic.scripted import SCRIPTED_DIGEST, Call, Said, Script, ScriptedBackend, in_turns

CHAT = ChatPrompt((Message("user", "How is the weather?"),))
TEXT = Said("It is sunny, and warm.")
CALLS = Said("Let me see. ", (Call("weather", '{"place": "Oslo"}'), Call("weather", '{"place": "Rome"}')))


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest("r1", fields.pop("model", "scripted"), fields.pop("prompt", CHAT), **fields)


async def run(backend: Backend, asked: GenerateRequest) -> list[BackendEvent]:
    return [event async for event in backend.generate(asked)]


def deltas_of(events: list[BackendEvent], choice: int = 0) -> list[TextDelta]:
    return [event for event in events if isinstance(event, TextDelta) and event.choice == choice]


def text_of(events: list[BackendEvent], choice: int = 0) -> str:
    return "".join(delta.text for delta in deltas_of(events, choice) if not delta.is_prompt)


def calls_of(events: list[BackendEvent]) -> list[tuple[str | None, str]]:
    calls: dict[int, list[Any]] = {}
    for piece in (piece for delta in deltas_of(events) for piece in delta.tool_calls):
        call = calls.setdefault(piece.index, [piece.name, ""])
        call[1] += piece.arguments
    return [(name, arguments) for name, arguments in calls.values()]


WEATHERS: list[tuple[str | None, str]] = [("weather", '{"place": "Oslo"}'), ("weather", '{"place": "Rome"}')]
ONE_CALL = request(prompt=ChatPrompt(CHAT.messages, parallel_tool_calls=False))

CASES: list[tuple[str, Said, GenerateRequest, str, list[tuple[str | None, str]], str, int]] = [
    ("a text", TEXT, request(), "It is sunny, and warm.", [], "stop", 5),
    ("nothing", Said(), request(), "", [], "stop", 0),
    ("a limit", TEXT, request(max_tokens=2), "It is", [], "length", 2),
    ("a stop string", TEXT, request(stop=("y, a",)), "It is sunn", [], "stop", 4),
    ("a stop token", TEXT, request(stop_token_ids=(2,)), "It is", [], "stop", 3),
    ("after ids", TEXT, request(resume_tokens=(0, 1)), " sunny, and warm.", [], "stop", 5),
    ("after all", TEXT, request(resume_tokens=(0, 1, 2, 3, 4)), "", [], "stop", 5),
    ("calls", CALLS, request(), "Let me see. ", WEATHERS, "tool_calls", 12),
    ("one call only", CALLS, ONE_CALL, "Let me see. ", WEATHERS[:1], "tool_calls", 8),
    ("calls cut short", CALLS, request(max_tokens=6), "Let me see. ", [("weather", '{"place"')], "length", 6),
    ("a stop string before calls", CALLS, request(stop=("see",)), "Let me ", [], "stop", 3),
    ("after ids of a call", CALLS, request(resume_tokens=tuple(range(9))), "", [(None, '{"place": "Rome"}')], "", 12),
]


@pytest.mark.parametrize(
    ("said", "asked", "text", "calls", "reason", "tokens"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
async def test_cases(
    said: Said, asked: GenerateRequest, text: str, calls: list[tuple[str | None, str]], reason: str, tokens: int
) -> None:
    events = await run(ScriptedBackend(lambda _: said), asked)
    accepted, finished = events[0], events[-1]
    assert isinstance(accepted, Accepted) and accepted.digest == SCRIPTED_DIGEST
    assert isinstance(finished, Finished) and finished.reason == (reason or "tool_calls")
    assert (text_of(events), calls_of(events)) == (text, calls)
    assert finished.usage.completion_tokens == tokens


@pytest.mark.parametrize("said", [TEXT, CALLS], ids=["text", "calls"])
@pytest.mark.parametrize("stop", [(), ("and w",), ("see. ",)], ids=str)
async def test_an_answer_goes_on_after_any_of_its_tokens(said: Said, stop: tuple[str, ...]) -> None:
    backend = ScriptedBackend(lambda _: said)
    whole = deltas_of(await run(backend, request(stop=stop, logprobs=2)))
    for cut in range(len(whole)):
        if not whole[cut].token_ids:
            continue
        ids = tuple(token_id for delta in whole[: cut + 1] for token_id in delta.token_ids)
        rest = deltas_of(await run(backend, request(stop=stop, logprobs=2, resume_tokens=ids)))
        assert rest == whole[cut + 1 :]


async def test_choices_take_turns_and_each_has_its_seed() -> None:
    backend = ScriptedBackend(lambda asked: Said(f"seed {asked.sampling.seed}, n {asked.n}"))
    events = await run(backend, request(n=2, sampling=Sampling(seed=7)))
    assert [text_of(events, choice) for choice in (0, 1)] == [f"seed {choice_seed(7, i)}, n 1" for i in (0, 1)]
    assert [event.choice for event in events if isinstance(event, TextDelta)][:4] == [0, 1, 0, 1]
    assert isinstance(events[-1], Finished) and events[-1].other_reasons == ("stop",)


async def test_logprobs_and_an_echo() -> None:
    asked = request(prompt=TextPrompt("Once upon"), echo=True, logprobs=2)
    echo, *answer = deltas_of(await run(ScriptedBackend(lambda _: TEXT), asked))
    assert (echo.text, echo.is_prompt) == ("Once upon", True)
    assert [entry.logprob for entry in echo.logprobs] == [None, -0.25]
    assert b"".join(entry.token for delta in answer for entry in delta.logprobs).decode() == TEXT.text
    assert {len(entry.top) for delta in answer for entry in delta.logprobs} == {2}


async def test_turns_of_a_chat() -> None:
    script: Script = in_turns(CALLS, TEXT)
    call = ToolCall("call_1", "weather", "{}")
    turns = (*CHAT.messages, Message("assistant", "", (call,)), Message("tool", "sunny", tool_call_id="call_1"))
    assert script(request()) == CALLS
    assert script(request(prompt=ChatPrompt(turns))) == TEXT
    assert script(request(prompt=TextPrompt("Once"))) == CALLS


async def test_ids_of_calls_differ_between_turns_and_come_again_with_the_seed() -> None:
    backend = ScriptedBackend(lambda _: CALLS)

    async def ids(*messages: Message) -> list[str]:
        events = await run(backend, request(prompt=ChatPrompt((*CHAT.messages, *messages))))
        return [piece.id for delta in deltas_of(events) for piece in delta.tool_calls if piece.id]

    first = await ids()
    second = await ids(Message("assistant", "", tuple(ToolCall(each, "weather", "{}") for each in first)))
    assert first == await ids()
    assert len({*first, *second}) == 4


async def test_a_gate_may_fail_it() -> None:
    async def gate(index: int) -> None:
        if index == 2:
            raise WorkerFailed("told to")

    seen: list[BackendEvent] = []
    with pytest.raises(WorkerFailed):
        async for event in ScriptedBackend(lambda _: TEXT, gate=gate).generate(request()):
            seen.append(event)
    assert text_of(seen) == "It is"


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (request(model="other"), ModelNotFound),
        (request(digest="sha256:" + "0" * 64), ModelNotFound),
        (request(max_tokens=4096), ContextOverflow),
        (request(prompt=TextPrompt("a " * 5000)), ContextOverflow),
        (request(resume_tokens=(1,)), InvalidRequest),
        (request(resume_tokens=tuple(range(6))), InvalidRequest),
        (request(resume_tokens=(0, 1), max_tokens=1), InvalidRequest),
    ],
)
async def test_refused_before_accepted(asked: GenerateRequest, error: type[Exception]) -> None:
    with pytest.raises(error):
        await anext(ScriptedBackend(lambda _: TEXT).generate(asked))
