"""The catalogue: models come and go, the first of two backends serves, and their loads are one worker's."""

from __future__ import annotations

import logging

import pytest

from p2pnet.messages import Measure
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendLoad
from p2pnet.worker.catalogue import Catalogue
from tests.stories import card
from tests.worker.scripted import Embedder, Scripted

EMBEDS = card("tiny", task="embed")
OTHER = card("tiny", context_length=9)


def backends(*models: tuple[ModelCard, ...]) -> list[Scripted]:
    return [Scripted(models=cards) for cards in models]


OFFERED: dict[str, tuple[list[tuple[ModelCard, ...]], tuple[ModelCard, ...]]] = {
    "nothing": ([], ()),
    "backends without models": ([(), ()], ()),
    "in the order of backends": ([(card("b"),), (card("a"), card("c"))], (card("b"), card("a"), card("c"))),
    "the first of two": ([(card("tiny"),), (OTHER, card("a"))], (card("tiny"), card("a"))),
    "the first of two, the other way": ([(OTHER,), (card("tiny"),)], (OTHER,)),
    "one for each task": ([(card("tiny"), EMBEDS)], (card("tiny"), EMBEDS)),
    "one for each task, from two backends": ([(EMBEDS,), (card("tiny"),)], (EMBEDS, card("tiny"))),
}


@pytest.mark.parametrize(("models", "cards"), OFFERED.values(), ids=OFFERED)
def test_cards(models: list[tuple[ModelCard, ...]], cards: tuple[ModelCard, ...]) -> None:
    assert Catalogue(backends(*models)).cards() == cards


def test_a_model_is_found_where_it_is_now() -> None:
    first, second = backends((card("tiny"), card("embeds", task="embed")), (card("large"), OTHER))
    catalogue = Catalogue([first, second])
    assert catalogue.find("tiny") is first
    assert catalogue.find("large") is second
    assert catalogue.find("Tiny") is catalogue.find("embeds") is None
    first.models = ()
    assert catalogue.find("tiny") is second
    second.models = (card("late"),)
    assert catalogue.find("tiny") is None
    assert catalogue.find("late") is second


def test_who_generates_does_not_embed_and_the_other_way_round() -> None:
    (backend,), (embedder,) = backends((card("tiny"),)), backends((EMBEDS,))
    catalogue = Catalogue([backend], [Embedder(embedder)])
    assert catalogue.cards() == (card("tiny"), EMBEDS)
    assert catalogue.find("tiny") is backend
    assert isinstance(catalogue.find_embedder("tiny"), Embedder)
    assert catalogue.find_embedder("large") is None
    assert catalogue.find("large") is None
    embedder.load = BackendLoad(prefill_tokens_per_s=Measure(70.0, 9))
    assert catalogue.load.prefill_tokens_per_s == Measure(70.0, 9)


def test_a_model_that_is_there_twice_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    first, second = backends((card("tiny"), EMBEDS), (OTHER,))
    catalogue = Catalogue([first, second])
    for _ in range(3):
        catalogue.cards()
    assert [record.message for record in caplog.records] == [
        "two backends offer the model tiny: the first one serves it"
    ]
    second.models = ()
    catalogue.cards()
    second.models = (OTHER,)
    catalogue.cards()
    assert len(caplog.records) == 2


def test_memory_is_added_up_and_the_newest_measure_stands() -> None:
    first, second = backends((card("a"),), (card("b"),))
    first.load = BackendLoad(10, 100, Measure(5.0, 7), Measure(50.0, 7))
    second.load = BackendLoad(20, 200, Measure(6.0, 8), Measure(60.0, 6))
    assert Catalogue([first, second]).load == BackendLoad(30, 300, Measure(6.0, 8), Measure(50.0, 7))
    first.load, second.load = BackendLoad(slots=4), BackendLoad(slots=2)
    assert Catalogue([first, second]).load.slots == 2, "the fewest: all models of a worker have as many"
    assert Catalogue([first, Scripted()]).load.slots == 4
    assert Catalogue([]).load == BackendLoad()
