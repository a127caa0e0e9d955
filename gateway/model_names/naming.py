"""Finds what a model's name stands for: itself, an alias that the owner has given, or `auto`.

Knows nothing of HTTP: the surfaces pass the names of requests on as they come, and ask here only to show a model.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import msgspec

from gateway.interface import ModelEntry
from gateway.routing.route_query import RouteQuery, route_query_of
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import NoWorker, UsageError
from p2pnet.messages import GenerateRequest
from p2pnet.rerank_messages import RerankRequest
from p2pnet.tokenize_messages import TokenizeRequest

AUTO = "auto"
"""Any model that can do what the request needs."""

DEFAULT_TAG = ":latest"
"""Ollama's: with it and without it a name is the same."""

R = TypeVar("R", GenerateRequest, EmbedRequest, TokenizeRequest, RerankRequest)


M = TypeVar("M")


class Index(Generic[M]):
    """What `make` makes of a list of models, made anew when it is another list: each request asks, and hardly any finds
    a change."""

    def __init__(self, make: Callable[[Sequence[ModelEntry]], M]) -> None:
        self._make = make
        self._made: tuple[Sequence[ModelEntry], M] | None = None

    def of(self, entries: Sequence[ModelEntry]) -> M:
        if self._made is None or self._made[0] is not entries:
            self._made = entries, self._make(entries)
        return self._made[1]


def ids_of(entries: Sequence[ModelEntry]) -> frozenset[str]:
    return frozenset(entry.id for entry in entries)


class Names:
    """The names that one gateway knows. `is_served` says whether any worker can serve a request."""

    def __init__(
        self,
        aliases: Mapping[str, str],
        models: Callable[[], Sequence[ModelEntry]],
        is_served: Callable[[RouteQuery], bool],
    ) -> None:
        self._aliases = aliases
        self._models = models
        self._is_served = is_served
        self._ids = Index(ids_of)

    def resolved(self, request: R) -> R:
        """The request for the model that its name stands for. Raises NoWorker when `auto` stands for nothing."""
        entries = self._models()
        name = meant_by(request.model, self._ids.of(entries), self._aliases)
        if name == AUTO:
            name = self._any(request, entries)
        return request if name == request.model else msgspec.structs.replace(request, model=name)

    def _any(self, request: R, entries: Sequence[ModelEntry]) -> str:
        """The one that most workers run, those in memory first: there an answer is soonest."""
        query = route_query_of(request)  # once: to name the beginning of a prompt with images takes milliseconds
        able = [entry for entry in entries if self._is_served(replace(query, model=entry.id))]
        if not able:
            raise NoWorker("No model on the network can do what this request needs at the moment.")
        return _readiest(able).id


def meant_by(name: str, ids: Container[str], aliases: Mapping[str, str]) -> str:
    """The id among `ids` that a name stands for, or AUTO; the name itself where it stands for neither.

    A model that is announced under a name goes before an alias: nobody is given another one than the one they named.
    """
    for each in spellings(name):
        if each in ids:
            return each
    alias = next((aliases[each] for each in spellings(name) if each in aliases), untagged(name))
    if alias == AUTO:
        return AUTO
    return next((each for each in spellings(alias) if each in ids), name)


def find_model(name: str, entries: Sequence[ModelEntry], aliases: Mapping[str, str]) -> ModelEntry | None:
    """The model that a name stands for where nothing is asked of it yet; None where there is none now."""
    by_id = {entry.id: entry for entry in entries}
    meant = meant_by(name, by_id, aliases)
    return _readiest(entries) if meant == AUTO and entries else by_id.get(meant)


def spellings(name: str) -> tuple[str, ...]:
    """The name, and what else is the same: without `:latest`, or with it."""
    return name, untagged(name), name + DEFAULT_TAG


def untagged(name: str) -> str:
    return name.removesuffix(DEFAULT_TAG)


def parse_aliases(given: Sequence[str]) -> dict[str, str]:
    """The aliases that are given as `NAME=MODEL` each. Raises UsageError."""
    aliases: dict[str, str] = {}
    for each in given:
        name, separator, model = each.partition("=")
        if not separator or not name or not model or name in aliases:
            raise UsageError(f"{each!r} is no alias, or the second for its name.", "Write --alias gpt-4o-mini=MODEL.")
        aliases[name] = model
    return aliases


def _readiest(entries: Sequence[ModelEntry]) -> ModelEntry:
    return max(entries, key=lambda entry: (entry.is_warm, entry.workers, entry.id))
