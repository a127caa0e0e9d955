"""What `p2pnet up` lends and runs, by what was found, said and agreed to."""

from __future__ import annotations

import pytest

from p2pnet.cli.up import plan
from p2pnet.cli.up.command import UpFlags, agreed
from p2pnet.cli.up.plan import Lent, network_words
from p2pnet.cli.up.servers import FoundServer

OLLAMA = FoundServer("Ollama", "http://127.0.0.1:11434", ("llama3.2:3b", "qwen3:8b"))
EMPTY = FoundServer("LM Studio", "http://127.0.0.1:1234")
LOCKED = FoundServer("vLLM", "http://127.0.0.1:8000", needs_key=True)
MANY = FoundServer("llama.cpp", "http://127.0.0.1:8080", tuple("abcdefg"))
HOSTILE = FoundServer("llama.cpp", "http://127.0.0.1:8080", ("a\x1b[2J",))


@pytest.mark.parametrize(
    ("flags", "found", "answers", "lent", "asked"),
    [
        (UpFlags(), [OLLAMA], [True], Lent((), (OLLAMA.url,)), ["llama3.2:3b, qwen3:8b"]),
        (UpFlags(), [OLLAMA], [False, True], Lent(("tiny",)), ["llama3.2:3b, qwen3:8b", "tiny"]),
        (UpFlags(), [OLLAMA], [False, False], Lent(), ["Ollama", "tiny"]),
        (UpFlags(), [], [True], Lent(("tiny",)), ["the bundled toy model, tiny?"]),
        (UpFlags(), [EMPTY, LOCKED], [False], Lent(), ["tiny"]),
        (UpFlags(), [MANY], [True], Lent((), (MANY.url,)), ["a, b, c, d, e and 2 more?"]),
        (UpFlags(), [HOSTILE], [True], Lent((), (HOSTILE.url,)), [r"has: a\x1b[2J?"]),
        (UpFlags(yes=True), [OLLAMA, EMPTY, LOCKED], [], Lent((), (OLLAMA.url,)), []),
        (UpFlags(yes=True), [], [], Lent(("tiny",)), []),
        (UpFlags(model=["m"]), [], [], Lent(("m",)), []),
        (UpFlags(model=["m"]), [OLLAMA], [False], Lent(("m",)), ["Ollama"]),
        (UpFlags(upstream=[OLLAMA.url]), [OLLAMA, MANY], [True], Lent((), (OLLAMA.url, MANY.url)), ["llama.cpp"]),
    ],
)
def test_nothing_is_lent_that_nobody_has_agreed_to(
    flags: UpFlags, found: list[FoundServer], answers: list[bool], lent: Lent, asked: list[str]
) -> None:
    questions: list[str] = []

    def ask(question: str) -> bool:
        questions.append(question)
        return answers[len(questions) - 1]

    assert agreed(flags, found, ask) == lent
    assert len(questions) == len(asked)
    assert all(part in question for part, question in zip(asked, questions, strict=True))


def test_where_nobody_can_be_asked_nothing_is_lent(capsys: pytest.CaptureFixture[str]) -> None:
    assert agreed(UpFlags(), [OLLAMA, LOCKED], None) == Lent()
    said = capsys.readouterr().out
    assert "Not lent, since nobody is there to be asked: what Ollama at http://127.0.0.1:11434 has" in said
    assert f"p2pnet serve --upstream {LOCKED.url} --upstream-key-env VARIABLE" in said


@pytest.mark.parametrize(
    ("named", "swarm", "invite", "words"),
    [
        ((), None, None, ()),
        (("/a", "/b"), None, None, ("--initial-peers", "/a", "--initial-peers", "/b")),
        ((), "lab", None, ("--swarm", "lab")),
        (("/a",), "lab", None, ("--swarm", "lab", "--initial-peers", "/a")),
        ((), None, "p2pnet-join:/a", ("--invite", "p2pnet-join:/a")),
    ],
)
def test_all_parts_join_the_same_network(
    named: tuple[str, ...], swarm: str | None, invite: str | None, words: tuple[str, ...]
) -> None:
    assert network_words(named, swarm, invite) == words


def test_commands_are_what_one_would_type() -> None:
    assert str(plan.bootstrap()) == "p2pnet bootstrap"
    assert str(plan.gateway(8000, ("--swarm", "lab"))) == "p2pnet gateway --port 8000 --swarm lab"
    lent = Lent(("my model", "tiny"), ("http://127.0.0.1:11434",))
    assert str(plan.worker(lent, ())) == (
        "p2pnet serve --model 'my model' --model tiny --upstream http://127.0.0.1:11434"
    )
