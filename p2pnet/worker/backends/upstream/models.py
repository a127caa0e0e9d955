"""Polls an upstream server for its models, and owns the list of offers. Knows nothing of requests.

A server that cannot be asked has no models: they are back when it is. It warns once of each thing that it leaves out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import msgspec

from p2pnet import features
from p2pnet.errors import ModelNotFound, WorkerFailed
from p2pnet.flow.background import Background
from p2pnet.records import MAX_MODELS, MAX_PARTS
from p2pnet.worker.backends.upstream.offer import Offer, announced_name

logger = logging.getLogger(__name__)

MAX_OFFERS = MAX_PARTS * MAX_MODELS
"""More than a worker can announce."""

POLL_S = 15.0
"""How late a model that has come or gone is noticed. A request that meets a model that is gone asks at once."""


class Listing(Protocol):
    """Asks one kind of server for its models."""

    async def __call__(self) -> list[Offer]:
        """The offers in the server's own order. Raises WorkerFailed."""


class PolledModels:
    """The offers of one server. `start` it, `stop` it."""

    def __init__(
        self,
        listing: Listing,
        shown_url: str,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        names: Mapping[str, str] | None = None,
        readers: Collection[str] = (),
    ) -> None:
        """`names` are what models are to be announced as, by what the server calls them; `readers` are those that read
        images, as their owner says."""
        self._listing = listing
        self._names = names or {}
        self._readers = readers
        self._shown_url = shown_url
        self._sleep = sleep
        self._offers: dict[str, Offer] = {}
        self._no_tools: set[str] = set()
        """Digests of models that said they cannot call tools, although their server may."""
        self._warned: set[str] = set()
        self._is_away = False
        self._asked = asyncio.Event()
        self._background = Background(sleep)

    @property
    def offers(self) -> dict[str, Offer]:
        """By model id."""
        return self._offers

    def start(self) -> None:
        """Keep asking, in the background."""
        self._background.keep(f"asking the upstream server {self._shown_url}", self._repeat)

    async def stop(self) -> None:
        await self._background.stop()

    def ask_soon(self) -> None:
        """Ask at once instead of at the next turn: something went wrong that the next list may explain."""
        self._asked.set()

    @contextlib.contextmanager
    def doubted_on_failure(self) -> Iterator[None]:
        """While a request is under way: where the server fails, or the model is gone, the next list may say why."""
        try:
            yield
        except (ModelNotFound, WorkerFailed):
            self.ask_soon()
            raise

    def without_tools(self, offer: Offer) -> None:
        """Note that the server has just said that it cannot call tools with this model."""
        self._no_tools.add(offer.card.digest)
        self._offers = {name: self._cut(other) for name, other in self._offers.items()}

    async def ask(self) -> None:
        """Ask once, now. A server that gives no list has no models."""
        try:
            found = await self._listing()
        except WorkerFailed as error:
            self._gone(error)
            return
        if self._is_away:
            logger.info("the upstream server %s is back", self._shown_url)
        self._is_away = False
        before, self._offers = self._offers, self._chosen(found)
        self._say_changes(before.keys())

    def _gone(self, error: WorkerFailed) -> None:
        self._offers = {}
        if not self._is_away:
            logger.warning("the upstream server %s is away: %s", self._shown_url, error)
        self._is_away = True

    async def _repeat(self) -> None:
        while True:
            await self._pause()
            try:
                await self.ask()
            except Exception:  # the poller outlives whatever a server sends it; the next turn comes
                logger.exception("the upstream server %s could not be asked", self._shown_url)

    async def _pause(self) -> None:
        """Wait until the next turn, or until somebody asks for it."""
        pause = asyncio.ensure_future(self._sleep(POLL_S))
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({pause, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            asked.cancel()
            await asyncio.wait({pause, asked})
        self._asked.clear()

    def _chosen(self, found: Iterable[Offer]) -> dict[str, Offer]:
        """The offers that can be announced, first come first. The announcer sees to how many bytes a record holds."""
        chosen: dict[str, Offer] = {}
        found = [self._cut(offer) for offer in found]
        there = {offer.name for offer in found}
        for offer in found:
            name = self._names.get(offer.name) or announced_name(offer.name)
            if name is None:
                self._warn_once(offer.name, "its name cannot be; name it with --served-name OLD=NEW")
                continue
            if name != offer.name:
                offer = offer.called(name)
            is_taken = name != offer.name and name in there - self._names.keys()
            if is_taken or chosen.get(name, offer).name != offer.name:
                self._warn_once(offer.name, f"another is already {name}; name it with --served-name OLD=NEW")
            elif not offer.card.features:
                self._warn_once(name, "the server neither generates nor embeds nor ranks with it")
            elif len(chosen) < MAX_OFFERS:
                chosen.setdefault(name, offer)
            elif name not in chosen:
                self._warn_once(name, "no more models fit into an announcement; run another worker for it")
        return chosen

    def _cut(self, offer: Offer) -> Offer:
        if offer.name in self._readers:
            offer = offer.reading_images()
        if offer.card.digest not in self._no_tools:
            return offer
        chat = offer.chat - {features.TOOLS}
        card = msgspec.structs.replace(offer.card, features=tuple(sorted(chat | offer.text)))
        return replace(offer, card=card, chat=chat)

    def _warn_once(self, name: str, reason: str) -> None:
        if name in self._warned or len(self._warned) >= 8 * MAX_OFFERS:
            return
        self._warned.add(name)
        logger.warning("the model %.128r of %s is not announced: %s", name, self._shown_url, reason)

    def _say_changes(self, before: Iterable[str]) -> None:
        for name in sorted(set(self._offers) - set(before)):
            there = self._offers[name].name
            also = "" if there == name else f", which it calls {there[:128]!r}"
            logger.info("the upstream server %s has %s%s", self._shown_url, name, also)
        for name in sorted(set(before) - set(self._offers)):
            logger.info("the upstream server %s no longer has %s", self._shown_url, name)
