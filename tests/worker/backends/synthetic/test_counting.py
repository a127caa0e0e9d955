"""Counting a prompt's tokens on the event loop stops where the prompt is too long."""

from __future__ import annotations

import re

import pytest

from p2pnet.errors import ContextOverflow
from p2pnet.worker.backends.synthetic.counting import counted

WORD = re.compile(r"\s*\S+")


@pytest.mark.parametrize(("texts", "count"), [([], 1), ([""], 1), (["a b"], 2), (["a", "b c"], 3), (["a " * 10], 10)])
def test_what_fits_is_counted(texts: list[str], count: int) -> None:
    assert counted(WORD, texts, context_length=10) == count


@pytest.mark.parametrize("texts", [["a " * 11], ["a " * 1_000_000], ["a "] * 1000])
def test_what_does_not_fit_is_counted_no_further_than_that_shows(texts: list[str]) -> None:
    with pytest.raises(ContextOverflow, match="at least 11"):
        counted(WORD, texts, context_length=10)
