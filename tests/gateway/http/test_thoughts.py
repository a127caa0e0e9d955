"""What a model thinks, apart from what it says, however it is cut into pieces."""

from __future__ import annotations

import random

import pytest

from gateway.http.thoughts import Thought, Thoughts
from p2pnet.messages import Accepted, Finished, TextDelta, TokenLogprob, ToolCallDelta, Usage

END = Finished("stop", Usage(7, 3))
CALL = (ToolCallDelta(0, "c", "f", "{}"),)

ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"

ANSWERS: list[tuple[str, str, str, str]] = [
    ("none", "Hello.", "", "Hello."),
    ("as servers' are put back", "<think>\nHm.\nSo.\n</think>\n\nYes.", "Hm.\nSo.", "Yes."),
    ("as models write them", "<think>Hm.</think>Yes.", "Hm.", "Yes."),
    ("space first", "\n <think>Hm.</think> Yes.", "Hm.", "Yes."),
    ("empty", "<think>\n\n</think>\n\nYes.", "", "Yes."),
    ("nothing is said", "<think>\nHm.\n</think>", "Hm.", ""),
    ("cut while it thinks", "<think>\nHm, </thi", "Hm, </thi", ""),
    ("other tags in it", "<think>a < b, </b> </think>Yes.", "a < b, </b>", "Yes."),
    ("a tag that is said later", "I <think> so.</think>", "", "I <think> so.</think>"),
    ("another tag", "<thing>", "", "<thing>"),
    ("the beginning of a tag alone", "<thin", "", "<thin"),
    ("twice", "<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    ("nothing", "", "", ""),
    ("Magistral's", "[THINK]Hm.[/THINK]Yes.", "Hm.", "Yes."),
    ("Seed-OSS's", "<seed:think>\nHm.\n</seed:think>Yes.", "Hm.", "Yes."),
    ("Kimi's", "◁think▷Hm.◁/think▷Yes.", "Hm.", "Yes."),
    ("gpt-oss's", f"{ANALYSIS}Hm.{FINAL}Yes.", "Hm.", "Yes."),
    ("gpt-oss's, without thoughts", "<|channel|>final<|message|>Yes.", "", "Yes."),
    ("gpt-oss's, cut while it thinks", f"{ANALYSIS}Hm.<|end|><|start|>", "Hm.<|end|><|start|>", ""),
    ("only its own tag ends them", "[THINK]a</think>b[/THINK]Yes.", "a</think>b", "Yes."),
    ("words that a client may have asked for", "<thinking>Hm.</thinking>Yes.", "", "<thinking>Hm.</thinking>Yes."),
    ("the same", "<reasoning>Hm.</reasoning>Yes.", "", "<reasoning>Hm.</reasoning>Yes."),
]


def pieces_of(text: str, rng: random.Random) -> list[TextDelta]:
    pieces = []
    while text:
        size = rng.randint(1, 4)
        pieces.append(TextDelta(text[:size]))
        text = text[size:]
    return pieces


@pytest.mark.parametrize(("text", "thought", "said"), [case[1:] for case in ANSWERS], ids=[case[0] for case in ANSWERS])
def test_thoughts_are_taken_apart(text: str, thought: str, said: str) -> None:
    rng = random.Random(1)
    ways = [[TextDelta(text)], [TextDelta(each) for each in text], *(pieces_of(text, rng) for _ in range(20))]
    for deltas in ways:
        thoughts = Thoughts()
        events = [each for event in (Accepted(7), *deltas, END) for each in thoughts.take(event)]
        assert (events[0], events[-1]) == (Accepted(7), END)
        assert "".join(event.text for event in events if isinstance(event, Thought)) == thought
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == said
        kinds = [type(event) for event in events[1:-1]]
        assert kinds == sorted(kinds, key=lambda kind: kind is TextDelta), "thoughts come first"


@pytest.mark.parametrize(
    "text",
    [
        "Hm.\n</think>\n\nYes.",
        "\nHm.</think>Yes.",
        "Hm.</thinking>Yes.",
        "Hm.</thought>Yes.",
        "\nHm.\n</reasoning>\nYes.",
        "Hm.[/THINK]Yes.",
        "Hm.</seed:think>Yes.",
    ],
)
def test_a_prompt_may_have_opened_the_thoughts(text: str) -> None:
    for deltas in ([TextDelta(text)], [TextDelta(each) for each in text]):
        thoughts = Thoughts()
        accepted = Accepted(7, begins_thinking=True)
        events = [each for event in (accepted, *deltas, END) for each in thoughts.take(event)]
        assert "".join(event.text for event in events if isinstance(event, Thought)) == "Hm."
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Yes."


def test_what_is_said_is_passed_on_at_once_and_as_it_is() -> None:
    thoughts = Thoughts()
    first = TextDelta("Hi", (1,), logprobs=(TokenLogprob(1, b"Hi", -0.5),))
    for delta in (first, TextDelta(" <"), TextDelta("", (3,))):
        (given,) = thoughts.take(delta)
        assert given is delta


def test_a_call_ends_the_thoughts() -> None:
    thoughts = Thoughts()
    assert thoughts.take(TextDelta("<think>Hm.")) == [Thought("Hm.")]
    assert thoughts.take(TextDelta(tool_calls=CALL)) == [TextDelta(tool_calls=CALL)]


def test_several_answers_think_each_by_itself() -> None:
    thoughts = Thoughts()
    assert thoughts.take(TextDelta("<think>a", choice=1)) == [Thought("a", 1)]
    assert thoughts.take(TextDelta("b")) == [TextDelta("b")]
    assert thoughts.take(TextDelta("</think>c", choice=1)) == [TextDelta("c", choice=1)]
    assert thoughts.take(TextDelta("<think>", is_prompt=True)) == [TextDelta("<think>", is_prompt=True)]
