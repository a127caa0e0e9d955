"""What routing is told of a request, as tables: features, weight, and when two requests begin in the same way."""

from __future__ import annotations

import msgspec
import pytest

from gateway.routing.route_query import RouteQuery, beginning_of, route_query_of
from p2pnet.embed_messages import EmbedRequest
from p2pnet.messages import ChatPrompt, GenerateRequest, ImagePart, Message, Prompt, TextPrompt, TokenPrompt
from tests.stories import DIGEST, ask

LONG = "a line of a text that goes on and on. " * 40
LONG_TOKENS = len(LONG) // 4 + 3


def chat(*turns: str) -> ChatPrompt:
    """Turns as `s:`, `u:` and `a:` for system, user and assistant."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return ChatPrompt(tuple(Message(roles[turn[0]], turn[2:]) for turn in turns))


def seen(text: str, *images: bytes) -> ChatPrompt:
    return ChatPrompt((Message("user", text, images=tuple(map(ImagePart, images))),))


def embed(*inputs: TextPrompt | TokenPrompt, dimensions: int | None = None) -> EmbedRequest:
    return EmbedRequest("request-1", "tiny", inputs, dimensions, DIGEST)


ASKS: dict[str, tuple[GenerateRequest | EmbedRequest, RouteQuery]] = {
    "short text": (
        ask("tiny", "12345678"),
        RouteQuery("tiny", features=frozenset({"text"}), tokens=3 + 256, prompt_tokens=3),
    ),
    "a limit": (
        ask("tiny", "12345678", max_tokens=10, digest=DIGEST),
        RouteQuery("tiny", "generate", DIGEST, frozenset({"text"}), 10, 13, prompt_tokens=3),
    ),
    "a limit that is clamped is none, and weighs no more than none": (
        ask("tiny", "12345678", max_tokens=131_072, clamp_max_tokens=True),
        RouteQuery("tiny", features=frozenset({"text"}), tokens=259, prompt_tokens=3),
    ),
    "a small limit that is clamped": (
        ask("tiny", "12345678", max_tokens=10, clamp_max_tokens=True),
        RouteQuery("tiny", features=frozenset({"text"}), tokens=13, prompt_tokens=3),
    ),
    "several answers": (
        ask("tiny", "", max_tokens=10, n=3),
        RouteQuery("tiny", features=frozenset({"text", "n"}), max_tokens=10, tokens=31),
    ),
    "a chat": (
        GenerateRequest("r", "tiny", chat("s:1234", "u:12345678"), max_tokens=1),
        RouteQuery("tiny", features=frozenset({"chat"}), max_tokens=1, tokens=6, prompt_tokens=5),
    ),
    "a chat with images": (
        GenerateRequest("r", "tiny", seen("1234", b"a", b"b"), max_tokens=1),
        RouteQuery(
            "tiny",
            features=frozenset({"chat", "images"}),
            max_tokens=1,
            tokens=3 + 2 * 1024,
            affinity=beginning_of(seen("1234", b"a", b"b")),
            prompt_tokens=2 + 2 * 1024,
        ),
    ),
    "token ids": (
        GenerateRequest("r", "tiny", TokenPrompt((1, 2, 3)), max_tokens=1),
        RouteQuery(
            "tiny", features=frozenset({"tokens"}), max_tokens=1, tokens=4, prompt_tokens=3, least_prompt_tokens=3
        ),
    ),
    "what goes on after tokens": (
        ask("tiny", "12345678", max_tokens=10, resume_tokens=(1, 2)),
        RouteQuery("tiny", features=frozenset({"text", "resume"}), max_tokens=10, tokens=13, prompt_tokens=5),
    ),
    "what goes on after a text": (
        ask("tiny", "12345678", max_tokens=10, resume_text="12345678"),
        RouteQuery("tiny", features=frozenset({"text", "resume_text"}), max_tokens=10, tokens=13, prompt_tokens=5),
    ),
    "an embedding": (
        embed(TextPrompt("12345678")),
        RouteQuery("tiny", "embed", DIGEST, frozenset({"text"}), tokens=3, prompt_tokens=3),
    ),
    "an embedding of a text that is not to be cut": (
        msgspec.structs.replace(embed(TextPrompt("x" * 1024)), truncate=False),
        RouteQuery("tiny", "embed", DIGEST, frozenset({"text"}), tokens=257, prompt_tokens=257, least_prompt_tokens=4),
    ),
    "embeddings of all kinds": (
        embed(TextPrompt(LONG), TokenPrompt((1, 2)), dimensions=8),
        RouteQuery(
            "tiny",
            "embed",
            DIGEST,
            frozenset({"text", "tokens", "dimensions"}),
            tokens=LONG_TOKENS,
            prompt_tokens=LONG_TOKENS,
            least_prompt_tokens=2,
        ),
    ),
}


@pytest.mark.parametrize(("request_", "expected"), ASKS.values(), ids=ASKS)
def test_what_is_asked(request_: GenerateRequest | EmbedRequest, expected: RouteQuery) -> None:
    assert route_query_of(request_) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        TextPrompt("x" * 127),
        TextPrompt(""),
        TokenPrompt(tuple(range(31))),
        chat("u:hello"),
        chat("s:be kind", "u:hello", "a:hello, how can I help?"),
    ],
)
def test_a_short_beginning_is_none(prompt: Prompt) -> None:
    assert beginning_of(prompt) is None


SAME: dict[str, tuple[Prompt, Prompt]] = {
    "the next turn": (chat("s:be kind", f"u:{LONG}"), chat("s:be kind", f"u:{LONG}", "a:yes", "u:why?")),
    "the next turns of a chat that began with few words": (
        chat("u:hello", f"a:{LONG}", "u:why?"),
        chat("u:hello", f"a:{LONG}", "u:because", "a:no"),
    ),
    "a text that grows a little": (TextPrompt(LONG[:600]), TextPrompt(LONG[:1000])),
    "a long text that grows": (TextPrompt("x" * 1024 + "y"), TextPrompt("x" * 1024 + "z" * 5000)),
    "token ids that grow": (TokenPrompt(tuple(range(40))), TokenPrompt(tuple(range(60)))),
    "the next turn about an image": (
        seen("what is it?", b"a"),
        ChatPrompt((*seen("what is it?", b"a").messages, Message("assistant", "a cat"))),
    ),
    "chats that differ far behind": (chat(f"u:{'x' * (1 << 14)}y"), chat(f"u:{'x' * (1 << 14)}z")),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_the_same_beginning(one: Prompt, other: Prompt) -> None:
    beginning = beginning_of(one)
    assert beginning is not None
    assert len(beginning) == 16
    assert beginning == beginning_of(other)


OTHER: dict[str, tuple[Prompt, Prompt]] = {
    "another first message": (chat(f"s:{LONG}", "u:one"), chat(f"s:{LONG}", "u:two")),
    "another system message": (chat("s:one", f"u:{LONG}"), chat("s:two", f"u:{LONG}")),
    "another role": (chat("u:one", f"a:{LONG}"), chat("a:one", f"u:{LONG}")),
    "another cut between the turns": (chat("s:one", f"u:two{LONG}"), chat("s:onetwo", f"u:{LONG}")),
    "another image": (seen(LONG, b"a"), seen(LONG, b"b")),
    "no image": (seen(LONG, b"a"), seen(LONG)),
    "images in another order": (seen("", b"a", b"b"), seen("", b"b", b"a")),
    "another text": (TextPrompt("x" + LONG), TextPrompt("y" + LONG)),
    "other token ids": (TokenPrompt(tuple(range(32))), TokenPrompt(tuple(range(1, 33)))),
}


@pytest.mark.parametrize(("one", "other"), OTHER.values(), ids=OTHER)
def test_another_beginning(one: Prompt, other: Prompt) -> None:
    assert beginning_of(one) != beginning_of(other)


def test_half_a_character_is_a_beginning_too() -> None:
    assert beginning_of(TextPrompt("\ud800" * 200)) is not None
