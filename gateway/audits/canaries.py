"""Makes prompts of the gateway's own that look like ordinary ones, so that no user's prompt has to be shown to an
auditor.

A worker that knows this file can guess which prompts are from here, and answer those honestly: canaries find who
cheats everybody alike. Pure.
"""

from __future__ import annotations

import random
from uuid import uuid4

from p2pnet.features import CHAT
from p2pnet.messages import ChatPrompt, GenerateRequest, Message, Sampling, TextPrompt
from p2pnet.records import ModelCard

MAX_TOKENS = (64, 96, 128, 192, 256)
"""Of an answer. Clients ask for round numbers."""

TEMPERATURES = (1.0, 1.0, 0.7, 0.8, 0.2, 0.0)
"""As often as clients do: most leave it as it is."""

TOP_P = (1.0, 1.0, 0.95, 0.9)

_TASKS = (
    "Explain {thing} to a {reader} in a few sentences.",
    "What are the main differences between {thing} and {other}?",
    "Write a short email to a {reader} about {thing}.",
    "Give me three arguments for {thing} and three against.",
    "Summarize what you know of {thing}.",
    "I am a {reader}. How do I get started with {thing}?",
    "Write a poem of eight lines on {thing} and {other}.",
    "Make a list of common mistakes with {thing}.",
    "Translate into French: we have talked about {thing} all day.",
    "Write a small Python function that has to do with {thing}.",
    "how does {thing} work? keep it short",
    "Compare {thing} with {other}, please, in a table.",
)
_THINGS = (
    *("solar panels", "sourdough bread", "bicycles", "the tides", "compound interest", "vaccines", "chess openings"),
    *(
        "database indexes",
        "volcanoes",
        "public libraries",
        "sleep",
        "beekeeping",
        "electric cars",
        "regular expressions",
    ),
    *("the French Revolution", "photosynthesis", "jazz", "marathon training", "inflation", "house plants", "Docker"),
    *("the immune system", "bird migration", "coffee", "unit tests", "black holes", "rental contracts", "composting"),
)
_READERS = ("child of ten", "new colleague", "student", "neighbour", "beginner", "manager", "landlord", "friend")
_SYSTEMS = ("", "", "You are a helpful assistant.", "Answer briefly.", "You are an expert who explains things plainly.")


def canary(card: ModelCard, rng: random.Random) -> GenerateRequest:
    """A request to a worker with this card, in the form in which this gateway passes on those of its clients."""
    thing, other = rng.sample(_THINGS, 2)
    text = rng.choice(_TASKS).format(thing=thing, other=other, reader=rng.choice(_READERS))
    prompt: ChatPrompt | TextPrompt = TextPrompt(text)
    if CHAT in card.features:
        system = rng.choice(_SYSTEMS)
        turns = [Message("system", system)] if system else []
        prompt = ChatPrompt((*turns, Message("user", text)))
    sampling = Sampling(rng.getrandbits(63), rng.choice(TEMPERATURES), top_p=rng.choice(TOP_P))
    return GenerateRequest(
        uuid4().hex, card.id, prompt, sampling, max_tokens=min(rng.choice(MAX_TOKENS), max(1, card.context_length // 4))
    )
