"""How an embed request goes on: cut anywhere, any number of times, the client is given each vector once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dispatch.embed_progress import EmbedProgress
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import ProtocolViolation
from p2pnet.features import RESUME
from p2pnet.messages import Accepted, Finished, TextPrompt, Usage
from tests.depth import examples
from tests.stories import DIGEST, card

SAME = card("echo", features=("text", RESUME))
RNG = st.integers(0, 1 << 32).map(random.Random)
VectorEvent = Accepted | Embedding | Finished

VECTORS = EmbedRequest("r", "echo", tuple(TextPrompt(str(number)) for number in range(3)))
NUMBERS = {text: number for number, text in enumerate(VECTORS.inputs)}


def vector(number: int) -> bytes:
    return bytes([number]) * 4


@settings(max_examples=examples(200), deadline=None)
@given(RNG)
def test_wherever_vectors_are_cut_each_comes_once(rng: random.Random) -> None:
    progress, events = EmbedProgress(VECTORS), list[VectorEvent]()
    while not progress.is_over:
        request = progress.continuation()
        assert request.inputs
        answers = [Embedding(index, vector(NUMBERS[text])) for index, text in enumerate(request.inputs)]
        rng.shuffle(answers)
        tokens = 3 * len(answers)
        whole: list[VectorEvent] = [Accepted(tokens, DIGEST), *answers, Finished("stop", Usage(tokens, 0))]
        progress.begin(SAME)
        for event in whole[: rng.choice([None, rng.randint(0, 4)])]:
            events += progress.take(event)
    assert events[0] == Accepted(9, DIGEST)
    assert events[-1] == Finished("stop", Usage(9, 0))
    found = [event for event in events if isinstance(event, Embedding)]
    assert len(events) == 5
    assert sorted((event.index, event.vector) for event in found) == [(number, vector(number)) for number in range(3)]


def test_vectors_of_another_length_are_not_those_of_this_answer() -> None:
    progress = EmbedProgress(VECTORS)
    progress.begin(SAME)
    progress.take(Accepted(9, DIGEST))
    progress.take(Embedding(0, vector(0)))
    progress.begin(SAME)
    with pytest.raises(ProtocolViolation):
        progress.take(Embedding(0, vector(1) * 2))
    assert len(progress.continuation().inputs) == 2
