"""The client against workers that count and tell tokens as they should not: none is believed that breaks the rules."""

from __future__ import annotations

import pytest

from p2pnet.client import tokenize
from p2pnet.directory import validator
from p2pnet.errors import P2PNetError, PeerLost, ProtocolViolation
from p2pnet.messages import (
    MAX_TOKENS_LIMIT,
    Accepted,
    ChatPrompt,
    Failed,
    Finished,
    Message,
    Prompt,
    TextDelta,
    TextPrompt,
    TokenPrompt,
    Usage,
)
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.network.memory import MemoryWorld
from p2pnet.tokenize_messages import MAX_IDS_AT_ONCE, MAX_TOKEN_NAME_CHARS, Tokenized, TokenizeEvent, TokenizeRequest
from p2pnet.wire.codec import MAX_TOKENIZE_EVENT_FRAME_BYTES, encode_frame, tokenize_request_decoder
from p2pnet.wire.exchange import TOKENIZE_PROTOCOL
from p2pnet.wire.prompt_size import MAX_TOKEN_CHARS
from p2pnet.wire.tokens import MAX_DETOKENIZED_CHARS, MAX_TOKENS_OF_TEMPLATE, MAX_TOKENS_PER_CHAR, TokensCheck
from tests.stories import DIGEST, ManualClock, peer

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id
TEXT = TextPrompt("Hi")
IDS = TokenPrompt((72, 9))


def ask(prompt: Prompt = TEXT, **fields: object) -> TokenizeRequest:
    return TokenizeRequest("r1", "tiny", prompt, **fields)  # type: ignore[arg-type]


def accepted(tokens: int = 2) -> Accepted:
    return Accepted(tokens, DIGEST)


def finished(tokens: int = 2) -> Finished:
    return Finished("stop", Usage(tokens, 0))


def framed(*events: TokenizeEvent | TextDelta) -> bytes:
    return b"".join(encode_frame(event, 1 << 24) for event in events)


def says(*chunks: bytes) -> StreamHandler:
    """A worker that reads its request, writes these bytes, and goes away."""

    async def handle(stream: Stream) -> None:
        decoder = tokenize_request_decoder()
        while not decoder.feed(await stream.read()):
            pass
        for chunk in chunks:
            await stream.write(chunk)

    return handle


async def run(handler: StreamHandler, request: TokenizeRequest) -> tuple[list[TokenizeEvent], P2PNetError | None]:
    """What came out before the end, and the error it ended with."""
    world = MemoryWorld(validator(ManualClock()))
    await world.join(WORKER).handle(TOKENIZE_PROTOCOL, handler)
    events: list[TokenizeEvent] = []
    try:
        async for event in tokenize(world.join(CLIENT), WORKER, request):
            events.append(event)
    except P2PNetError as error:
        return events, error
    return events, None


HONEST: dict[str, tuple[tuple[TokenizeEvent, ...], TokenizeRequest]] = {
    "a count": ((accepted(), finished()), ask()),
    "ids": ((accepted(), Tokenized((72,)), Tokenized((9,)), finished()), ask(wants="ids")),
    "names": ((accepted(1), Tokenized((72,), ("H",)), finished(1)), ask(wants="names")),
    "the text of ids": ((accepted(), Tokenized(text="H"), Tokenized(text="i"), finished()), ask(IDS)),
    "a text without tokens": ((accepted(0), finished(0)), ask(TextPrompt(""), wants="ids")),
    "a chat, whose template adds a lot": (
        (accepted(MAX_TOKENS_OF_TEMPLATE), finished(MAX_TOKENS_OF_TEMPLATE)),
        ask(ChatPrompt((Message("user", "Hi"),))),
    ),
    "as many as may come at once": (
        (
            accepted(MAX_IDS_AT_ONCE),
            Tokenized((MAX_TOKENS_LIMIT,) * MAX_IDS_AT_ONCE, ("quick",) * MAX_IDS_AT_ONCE),
            finished(MAX_IDS_AT_ONCE),
        ),
        ask(TextPrompt("x" * MAX_IDS_AT_ONCE), wants="names"),
    ),
}


@pytest.mark.parametrize(("events", "request_"), HONEST.values(), ids=HONEST)
async def test_what_is_honest_passes_in_any_pieces(
    events: tuple[TokenizeEvent, ...], request_: TokenizeRequest
) -> None:
    data = framed(*events)
    assert len(data) < 2 * MAX_TOKENIZE_EVENT_FRAME_BYTES
    for cut in range(1, len(data), max(1, len(data) // 50)):
        assert await run(says(data[:cut], data[cut:]), request_) == (list(events), None)


MOST = MAX_TOKENS_OF_TEMPLATE + MAX_TOKENS_PER_CHAR * 4
"""Of two letters, with a place for what is between texts."""

LIES: dict[str, tuple[tuple[TokenizeEvent | TextDelta, ...], TokenizeRequest]] = {
    "finished before it is accepted": ((finished(),), ask()),
    "accepted twice": ((accepted(), accepted()), ask()),
    "text of a generation": ((accepted(), TextDelta("Hi")), ask()),
    "an absurd count": ((accepted(MOST + 1),), ask()),
    "fewer than a long text has": ((accepted(9),), ask(TextPrompt("x" * 10 * MAX_TOKEN_CHARS))),
    "another count of ids than there are": ((accepted(3),), ask(IDS)),
    "another count at the end": ((accepted(), finished(3)), ask()),
    "ids where a count is wanted": ((accepted(), Tokenized((1,))), ask()),
    "more ids than counted": ((accepted(), Tokenized((1, 2)), Tokenized((3,))), ask(wants="ids")),
    "fewer ids than counted": ((accepted(), Tokenized((1,)), finished()), ask(wants="ids")),
    "names that nobody wants": ((accepted(), Tokenized((1,), ("a",))), ask(wants="ids")),
    "fewer names than ids": ((accepted(), Tokenized((1, 2), ("a",))), ask(wants="names")),
    "names without ids": ((accepted(), Tokenized(names=("a",))), ask(wants="names")),
    "a name that is too long": (
        (accepted(1), Tokenized((1,), ("a" * (MAX_TOKEN_NAME_CHARS + 1),))),
        ask(wants="names"),
    ),
    "too many ids at once": (
        (accepted(MAX_IDS_AT_ONCE + 1), Tokenized((1,) * (MAX_IDS_AT_ONCE + 1))),
        ask(wants="ids"),
    ),
    "an id that there cannot be": ((accepted(1), Tokenized((1 << 31,))), ask(wants="ids")),
    "text where ids are wanted": ((accepted(), Tokenized(text="Hi")), ask(wants="ids")),
    "ids where text is wanted": ((accepted(), Tokenized((1,))), ask(IDS)),
    "more text than ids can be": ((accepted(), *[Tokenized(text="x" * MAX_TOKEN_CHARS)] * 3), ask(IDS)),
    "a frame that is too large": ((accepted(), Tokenized(text="x" * MAX_TOKENIZE_EVENT_FRAME_BYTES)), ask(IDS)),
    "more behind the end": ((accepted(), finished(), finished()), ask()),
}


@pytest.mark.parametrize(("events", "request_"), LIES.values(), ids=LIES)
async def test_a_lie_is_a_violation_and_no_success(
    events: tuple[TokenizeEvent | TextDelta, ...], request_: TokenizeRequest
) -> None:
    came, error = await run(says(framed(*events)), request_)
    assert type(error) is ProtocolViolation
    assert not any(isinstance(event, Finished) for event in came)


async def test_an_answer_that_breaks_off_is_lost_and_a_failure_is_its_error() -> None:
    came, lost = await run(says(framed(accepted())), ask())
    assert (came, type(lost)) == ([accepted()], PeerLost)
    _, failed = await run(says(framed(Failed("worker_failed", "no"))), ask())
    assert failed is not None and failed.code == "worker_failed"


def test_the_text_of_very_many_ids_is_bounded() -> None:
    check = TokensCheck(ask(TokenPrompt((1,) * MAX_TOKENS_LIMIT)))
    check.check(accepted(MAX_TOKENS_LIMIT))
    part = Tokenized(text="x" * 8192)
    for _ in range(MAX_DETOKENIZED_CHARS // 8192):
        check.check(part)
    with pytest.raises(ProtocolViolation):
        check.check(part)
