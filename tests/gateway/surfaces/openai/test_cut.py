"""OpenAI's client reads our streams wherever the network cuts them: cut anywhere in two, and byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest

from gateway.http.replies import AnswerEvent, StreamRenderer
from gateway.interface import Waiting
from gateway.surfaces.openai.render import CHAT, COMPLETION, ResponseHead, SseRenderer
from gateway.surfaces.openai.response_render import ObjectHead
from gateway.surfaces.openai.response_stream import ResponseStream
from gateway.surfaces.openai.responses import parse_response
from p2pnet.messages import Accepted, Finished, TextDelta, ToolCallDelta, Usage

TEXT = 'é\u2028\r\n\n data: "\U0001f600"'
ARGUMENTS = '{"city": "Genève"}'
EVENTS: list[AnswerEvent] = [
    Accepted(7),
    TextDelta(TEXT),
    TextDelta(tool_calls=(ToolCallDelta(0, "call_1", "weather"),)),
    TextDelta(tool_calls=(ToolCallDelta(0, arguments=ARGUMENTS),)),
    Finished("tool_calls", Usage(7, 9)),
]


class Pieces(httpx.SyncByteStream):
    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces


def rendered(renderer: StreamRenderer) -> bytes:
    """With comments before, between and after."""
    parts = [renderer.keep_alive(Waiting(1))]
    for event in EVENTS:
        parts += [renderer.render([event]), renderer.keep_alive(None)]
    return b"".join(parts)


def read_chat(client: openai.OpenAI) -> tuple[str, str]:
    with client.chat.completions.stream(model="tiny", messages=[{"role": "user", "content": "hi"}]) as stream:
        message = stream.get_final_completion().choices[0].message
    return message.content or "", (message.tool_calls or [])[0].function.arguments


def read_completion(client: openai.OpenAI) -> tuple[str, str]:
    stream = client.completions.create(model="tiny", prompt="hi", stream=True)
    return "".join(chunk.choices[0].text for chunk in stream), ARGUMENTS


def read_response(client: openai.OpenAI) -> tuple[str, str]:
    with client.responses.stream(model="tiny", input="hi") as stream:
        response = stream.get_final_response()
    (call,) = [item for item in response.output if item.type == "function_call"]
    return response.output_text, call.arguments


HEAD = ResponseHead("id-1", 1, "tiny")
RESPONSE_ENVELOPE = ObjectHead("1", 1, parse_response(b'{"model": "tiny", "input": "hi"}'))


@pytest.mark.parametrize(
    ("renderer", "read"),
    [
        (SseRenderer(CHAT, HEAD, False), read_chat),
        (SseRenderer(COMPLETION, HEAD, False), read_completion),
        (ResponseStream(RESPONSE_ENVELOPE), read_response),
    ],
    ids=["chat", "completions", "responses"],
)
def test_a_stream_cut_anywhere(renderer: StreamRenderer, read: Callable[[openai.OpenAI], tuple[str, str]]) -> None:
    whole = rendered(renderer)
    stride = 1 + len(whole) // 150
    cuts = [[whole[:at], whole[at:]] for at in range(0, len(whole), stride)]
    bytewise = [whole[at : at + 1] for at in range(len(whole))]
    waiting = iter([bytewise, *cuts])

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": renderer.media_type}, stream=Pieces(next(waiting)))

    http: Any  # the client takes httpx's, under whatever name it has that
    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = openai.OpenAI(base_url="http://gateway/v1", api_key="none", http_client=http, max_retries=0)
        for _ in range(1 + len(cuts)):
            assert read(client) == (TEXT, ARGUMENTS)
