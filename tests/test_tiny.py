"""The bundled model `tiny`: it loads offline, knows docs/faq.md by heart, and says that it is a toy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
MODEL_DIR = ROOT / "p2pnet" / "assets" / "tiny"
MAX_FOLDER_BYTES = 8_000_000
LONG_ANSWER_TOKENS = 2_000

Chat = list[dict[str, str]]
Answerer = Callable[[Sequence[Chat]], list[str]]

QUESTIONS = [
    ("What is p2pnet?", ["volunteer", "nobody in charge"]),
    ("what's a worker", ["runs models for others"]),
    ("Please explain what a gateway is.", ["HTTP", "libp2p", "holds no model"]),
    ("Could you tell me what a bootstrap is?", ["public address", "no model"]),
    ("What exactly is a digest?", ["hash", "weights"]),
    ("What is a record in this network?", ["signed", "short-lived"]),
    ("how can I lend my laptop?", ["p2pnet serve --model tiny --initial-peers MADDR"]),
    ("How would I launch my own gateway?", ["p2pnet gateway --port 8000 --initial-peers MADDR"]),
    ("I want to set up a network of my own. How?", ["p2pnet bootstrap"]),
    ("Is my prompt private?", ["worker", "reads the prompt"]),
    ("Who is the boss of this network?", ["Nobody"]),
    ("My computer is behind NAT, does it still work?", ["relay"]),
    ("Can I use the OpenAI Python client?", ["OpenAI API", "http://localhost:8000/v1"]),
    ("What license does the project have?", ["MIT"]),
    ("What port does the gateway listen on?", ["8000"]),
    ("Hello, which models can I use?", ["p2pnet models"]),
    ("Do you have a demo?", ["make demo"]),
    ("Do I need a graphics card?", ["No.", "CPU"]),
    ("What if a worker crashes during an answer?", ["error", "never as if it were complete"]),
    ("hey, who are you?", ["toy model", "p2pnet"]),
]
OUT_OF_SCOPE = ["Hi", "Write me a poem", "What is the capital of France?", "How do I cook rice?", "What is 8 times 9?"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small only loses time to more threads, and the rest of the tests keep theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def answer() -> Answerer:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32, local_files_only=True).eval()

    @torch.inference_mode()
    def greedy(chats: Sequence[Chat]) -> list[str]:
        inputs = tokenizer.apply_chat_template(
            list(chats), add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        written = model.generate(**inputs, max_new_tokens=80, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        assert (written == tokenizer.eos_token_id).any(dim=1).all(), "an answer did not end by itself"
        texts: list[str] = tokenizer.batch_decode(written, skip_special_tokens=True)
        return texts

    return greedy


def faq() -> list[tuple[str, str]]:
    """The headings of docs/faq.md with their paragraphs, line breaks folded."""
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    entries = re.findall(r"^### ([^\n]+)\n(?:<!--.*?-->\n)?\n(.+?)(?:\n\n|\Z)", page, flags=re.MULTILINE | re.DOTALL)
    return [(question, " ".join(paragraph.split())) for question, paragraph in entries]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_folder_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= MAX_FOLDER_BYTES


def test_every_faq_heading_gets_exactly_its_answer(answer: Answerer) -> None:
    entries = faq()
    answers = answer([[user(question)] for question, _ in entries])
    assert len(entries) >= 40
    assert [(question, got) for (question, _), got in zip(entries, answers, strict=True)] == entries


def test_other_phrasings_get_the_key_facts(answer: Answerer) -> None:
    answers = answer([[user(question)] for question, _ in QUESTIONS])
    missing = [
        (question, fact, got)
        for (question, facts), got in zip(QUESTIONS, answers, strict=True)
        for fact in facts
        if fact not in got
    ]
    assert missing == []


def test_it_says_that_it_is_a_toy(answer: Answerer) -> None:
    for got in answer([[user(question)] for question in OUT_OF_SCOPE]):
        assert "I am tiny, a toy model bundled with p2pnet" in got


def test_a_second_question_and_a_system_message_are_answered_as_well(answer: Answerer) -> None:
    known = dict(faq())
    first, second = "What is a worker?", "What is a gateway?"
    in_chat = [user(first), {"role": "assistant", "content": known[first]}, user(second)]
    with_system = [{"role": "system", "content": "You are a helpful assistant."}, user(first)]
    assert answer([in_chat, with_system]) == [known[second], known[first]]


@torch.inference_mode()
def test_a_long_completion_runs_to_its_limit() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32, local_files_only=True).eval()
    prompt = tokenizer("### What is", return_tensors="pt")
    limits = {"min_new_tokens": LONG_ANSWER_TOKENS, "max_new_tokens": LONG_ANSWER_TOKENS}
    written = model.generate(**prompt, **limits, do_sample=False)
    assert written.shape[1] == prompt["input_ids"].shape[1] + LONG_ANSWER_TOKENS
