"""The echo of a prompt: all of it, once, in pieces that fit a frame, however its logits come."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from p2pnet.errors import WorkerFailed
from p2pnet.messages import TextDelta, TokenLogprob
from p2pnet.wire.codec import MAX_EVENT_FRAME_BYTES, encode_frame
from p2pnet.worker.engine.echo import MAX_TOKENS_PER_DELTA, PromptEcho
from p2pnet.worker.engine.logprobs import token_logprob
from p2pnet.worker.text.detokenizer import Piece
from p2pnet.worker.text.emission import Emitter

VOCABULARY = 50


class Letters:
    """A decoder of characters of so many tokens each."""

    def __init__(self, tokens_each: int = 1) -> None:
        self._tokens_each = tokens_each
        self._pending: list[int] = []

    def feed(self, token_id: int) -> Piece | None:
        self._pending.append(token_id)
        return self.flush() if len(self._pending) == self._tokens_each else None

    def flush(self) -> Piece | None:
        ids, self._pending = tuple(self._pending), []
        return Piece(ids, chr(97 + sum(ids) % 26)) if ids else None


def token_bytes(token_id: int) -> bytes:
    return b"%d" % token_id


def prompt_of(length: int) -> list[int]:
    return [index * 7 % VOCABULARY for index in range(length)]


def logits_of(length: int) -> torch.Tensor:
    return torch.randn(length, VOCABULARY, generator=torch.Generator().manual_seed(length))


def echo_of(prompt: Sequence[int], logprobs: int | None, tokens_each: int = 1) -> PromptEcho:
    return PromptEcho(prompt, Emitter(Letters(tokens_each), ()), logprobs, token_bytes, 3)


def expected_logprobs(prompt: Sequence[int], logits: torch.Tensor, top: int) -> list[TokenLogprob]:
    first = TokenLogprob(prompt[0], token_bytes(prompt[0]), None)
    return [
        first,
        *(token_logprob(logits[at - 1], prompt[at], top, token_bytes) for at in range(1, len(prompt))),
    ]


def check(deltas: Sequence[TextDelta], prompt: Sequence[int]) -> None:
    assert [token for delta in deltas for token in delta.token_ids] == list(prompt)
    assert all(delta.is_prompt and delta.choice == 3 for delta in deltas)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize("tokens_each", [1, 2, 4])
def test_without_logprobs(length: int, tokens_each: int) -> None:
    prompt = prompt_of(length)
    echo = echo_of(prompt, None, tokens_each)
    assert not echo.needs_logits
    deltas = echo.all()
    check(deltas, prompt)
    assert "".join(delta.text for delta in deltas) == "".join(
        chr(97 + sum(prompt[at : at + tokens_each]) % 26) for at in range(0, length, tokens_each)
    )
    assert all(not delta.logprobs for delta in deltas)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize("top", [0, 2])
@pytest.mark.parametrize("tokens_each", [1, 4])
def test_with_logprobs_in_any_pieces(length: int, top: int, tokens_each: int) -> None:
    prompt, logits = prompt_of(length), logits_of(length)
    rng = random.Random(length)
    for pieces in range(6):
        echo = echo_of(prompt, top, tokens_each)
        ends = sorted({length, *(rng.randrange(1, length + 1) for _ in range(pieces))})
        deltas: list[TextDelta] = []
        for start, end in zip([0, *ends], ends, strict=False):
            assert echo.needs_logits or start == length - 1, "the last token's logits tell of the answer"
            deltas.extend(echo.take(logits[start:end], start))
        assert not echo.needs_logits
        check(deltas, prompt)
        assert [entry for delta in deltas for entry in delta.logprobs] == expected_logprobs(prompt, logits, top)
        assert all(len(delta.logprobs) == len(delta.token_ids) for delta in deltas)


def test_what_is_computed_again_is_not_told_again() -> None:
    """As after it gave its memory up: from the beginning, in other pieces."""
    prompt, logits = prompt_of(100), logits_of(100)
    echo = echo_of(prompt, 1)
    deltas = list(echo.take(logits[:60], 0))
    assert echo.take(logits[:30], 0) == ()
    deltas.extend(echo.take(logits[30:80], 30))
    assert echo.take(logits[:61], 0) == ()
    deltas.extend(echo.take(logits[61:], 61))
    check(deltas, prompt)
    assert [entry for delta in deltas for entry in delta.logprobs] == expected_logprobs(prompt, logits, 1)


def test_rows_of_an_answer_are_no_part_of_it() -> None:
    prompt, logits = prompt_of(10), logits_of(14)
    echo = echo_of(prompt, 0)
    check(echo.take(logits, 0), prompt)
    assert not echo.needs_logits
    assert echo.take(logits[10:], 10) == ()


@pytest.mark.parametrize("tokens_each", [1, 3, 4])
def test_a_delta_fits_a_frame(tokens_each: int) -> None:
    prompt, logits = [index % 7 for index in range(150)], torch.randn(150, 100_000)
    echo = PromptEcho(prompt, Emitter(Letters(tokens_each), ()), 20, lambda token_id: b" " * 24, 0)
    for delta in echo.take(logits, 0):
        assert len(delta.token_ids) < MAX_TOKENS_PER_DELTA + tokens_each
        encode_frame(delta, MAX_EVENT_FRAME_BYTES)


def test_logits_that_are_not_numbers() -> None:
    logits = logits_of(10)
    logits[4, 7] = float("nan")
    with pytest.raises(WorkerFailed):
        echo_of(prompt_of(10), 0).take(logits, 0)
