"""Asks servers of each kind for their models, and finds out which kind a server is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from p2pnet.errors import UsageError, WorkerFailed
from p2pnet.records import MAX_MODELS
from p2pnet.worker.backends.upstream import tei
from p2pnet.worker.backends.upstream.address import Address, Kind
from p2pnet.worker.backends.upstream.offer import Does, Offer
from p2pnet.worker.backends.upstream.ollama import models as ollama
from p2pnet.worker.backends.upstream.openai import models as openai
from p2pnet.worker.backends.upstream.openai.dialect import CHAT_PATH, TEXT_PATH
from p2pnet.worker.backends.upstream.openai.flavours import LLAMA_CPP, LM_STUDIO, Flavour
from p2pnet.worker.backends.upstream.ranks import RERANK_PATH, has_ranks
from p2pnet.worker.backends.upstream.session import UpstreamSession
from p2pnet.worker.backends.upstream.tokens import DETOKENIZE_PATH, TEMPLATE_PATH
from p2pnet.worker.backends.upstream.vectors import EMBED_PATH, has_vectors

logger = logging.getLogger(__name__)

METHOD_NOT_ALLOWED = 405
NOT_FOUND = 404
NO_ROUTE = (NOT_FOUND, METHOD_NOT_ALLOWED)

OK = 200
BAD_REQUEST = 400

MANY_CHOICES = 1 << 20
"""More answers than any server has slots for."""

NOT_JSON = b"{"
"""Posted to find out whether a route exists: no server computes anything for it."""

MAX_SHOWN = 2 * MAX_MODELS
"""Models that Ollama is asked about, one by one: more than can be announced, since some do not generate."""


class OpenAIListing:
    """Lists the models of a server that speaks OpenAI's API."""

    def __init__(self, session: UpstreamSession) -> None:
        self._session = session
        self._abilities: openai.Abilities | None = None
        """Found out once, and anew when the server was away."""

    async def __call__(self) -> list[Offer]:
        try:
            body = await _fetched(self._session, openai.MODELS_PATH)
            if self._abilities is None:
                self._abilities = await self._find_abilities(openai.only_model(body))
            return await self._with_readers(openai.parse_models(body, self._abilities))
        except WorkerFailed:
            self._abilities = None
            raise

    async def _find_abilities(self, only_model: tuple[str, Flavour] | None) -> openai.Abilities:
        if only_model is not None and (does := await self._does(*only_model)) is not None:
            return openai.Abilities(does=does)
        status, body = await self._session.fetch(openai.PROPS_PATH)
        props = openai.parse_props(body) if status == 200 else None
        has_chat, has_text = await self._has(CHAT_PATH), await self._has(TEXT_PATH)
        tells_tokens = await self._has(openai.TOKENIZE_PATH) and await self._has(DETOKENIZE_PATH)
        if props is None:
            return openai.Abilities(
                has_chat,
                has_text,
                tells_tokens=tells_tokens,
                has_vectors=await self._has(EMBED_PATH),
                has_ranks=await self._has(RERANK_PATH),
            )
        return openai.Abilities(
            has_chat and await self._has_template(props),
            has_text,
            props.template_has_tools,
            props.continues_chats,
            gives_choices=await self._counts_choices(),
            slots=props.total_slots,
            reads_images=props.modalities.vision,
            tells_tokens=tells_tokens and await self._has(TEMPLATE_PATH),
        )

    async def _with_readers(self, offers: list[Offer]) -> list[Offer]:
        """Of LM Studio: which of them read images."""
        if all(offer.flavour != LM_STUDIO.name for offer in offers):
            return offers
        status, body = await self._session.fetch(openai.DESCRIBED_PATH)
        readers = openai.parse_readers(body) if status == OK else frozenset[str]()
        return [offer.reading_images() if offer.name in readers else offer for offer in offers]

    async def _does(self, model: str, flavour: Flavour) -> Does | None:
        """What the one model of this server does if that is not to generate: it is asked to, which is a token or a few.
        Some servers answer whatever is posted to any route as if it was a chat.

        llama.cpp gives vectors of what ranks, too, which are of no use. vLLM ranks with what embeds, too, by the angles
        of vectors.
        """
        ranks = await self._answers(RERANK_PATH, {"model": model, "query": "a", "documents": ["a"]}, has_ranks)
        if ranks and flavour is LLAMA_CPP:
            return "rank"
        if await self._answers(EMBED_PATH, {"model": model, "input": "a"}, has_vectors):
            return "embed"
        return "rank" if ranks else None

    async def _answers(self, path: str, asked: Mapping[str, Any], is_that: Callable[[bytes], bool]) -> bool:
        status, body = await self._session.fetch(path, msgspec.json.encode(asked))
        return status == OK and is_that(body)

    async def _has_template(self, props: openai.Props) -> bool:
        """Whether the model has a chat template: llama.cpp takes ChatML where there is none."""
        if openai.CHATML_MARK not in props.chat_template:
            return True
        asked = msgspec.json.encode({"content": openai.CHATML_MARK, "parse_special": True, "add_special": False})
        status, body = await self._session.fetch(openai.TOKENIZE_PATH, asked)
        return status != 200 or openai.is_one_token(body)

    async def _counts_choices(self) -> bool:
        """Whether this llama.cpp gives several answers: then it refuses more than it has slots, at once. Old versions
        do not look at `n`, and compute the one token: where they are busy, in a while."""
        asked = msgspec.json.encode({"prompt": "a", "max_tokens": 1, "n": MANY_CHOICES})
        try:
            status, _ = await self._session.fetch(TEXT_PATH, asked)
        except WorkerFailed:
            return False
        return status == BAD_REQUEST

    async def _has(self, path: str) -> bool:
        """Whether the server has this route. Most servers answer a GET of what can only be posted with 405; llama.cpp
        answers it as if there was nothing, and has to be sent something."""
        status, _ = await self._session.fetch(path)
        if status == METHOD_NOT_ALLOWED:
            return True
        status, _ = await self._session.fetch(path, NOT_JSON)
        return status not in NO_ROUTE


class OllamaListing:
    """Lists the models of Ollama. The details of a model are asked for once for each digest."""

    def __init__(self, session: UpstreamSession) -> None:
        self._session = session
        self._shown: dict[tuple[str, str], ollama.Shown] = {}
        self._contexts: dict[tuple[str, str], int] = {}
        """The context each model was last seen loaded with."""
        self._warned: set[str] = set()

    async def __call__(self) -> list[Offer]:
        version = ollama.parse_version(await _fetched(self._session, ollama.VERSION_PATH))
        if version is None:
            raise WorkerFailed("it does not answer as Ollama does")
        tags = ollama.parse_tags(await _fetched(self._session, ollama.TAGS_PATH))
        running = ollama.parse_running(await _fetched(self._session, ollama.RUNNING_PATH))
        offers = [await self._offer(tag, running, version) for tag in self._local(tags)]
        known = {(tag.name, tag.digest) for tag in tags}
        self._shown = {key: shown for key, shown in self._shown.items() if key in known}
        self._contexts = {key: length for key, length in self._contexts.items() if key in known}
        return [offer for offer in offers if offer is not None]

    def _local(self, tags: list[ollama.Tag]) -> list[ollama.Tag]:
        """The models that run on this server. Strangers' prompts are not sent on to somebody else's servers in its
        owner's name."""
        for tag in tags[:MAX_SHOWN]:
            if tag.is_remote and tag.name not in self._warned:
                self._warned.add(tag.name)
                logger.warning("the model %.128r is not announced: Ollama runs it on another server", tag.name)
        return [tag for tag in tags if not tag.is_remote][:MAX_SHOWN]

    async def _offer(self, tag: ollama.Tag, running: dict[str, int], version: tuple[int, ...]) -> Offer | None:
        key = (tag.name, tag.digest)
        if key not in self._shown:
            status, body = await self._session.fetch(ollama.SHOW_PATH, msgspec.json.encode({"model": tag.name}))
            if status != 200:  # it was deleted a moment ago
                return None
            self._shown[key] = ollama.parse_shown(body)
        if tag.name in running:
            self._contexts[key] = running[tag.name]
        return ollama.offer_of(tag, self._shown[key], self._contexts.get(key), version)


class TeiListing:
    """Lists the one model of text-embeddings-inference."""

    def __init__(self, session: UpstreamSession) -> None:
        self._session = session

    async def __call__(self) -> list[Offer]:
        return tei.parse_info(await _fetched(self._session, tei.INFO_PATH))


_PROBES = {Kind.openai: openai.MODELS_PATH, Kind.ollama: ollama.VERSION_PATH, Kind.tei: tei.INFO_PATH}
"""What a server of each kind answers."""


async def detect(session: UpstreamSession, address: Address) -> Kind:
    """Finds out which kind of server this is. Raises UsageError when it is not there, or is of no kind that we know."""
    try:
        if not address.is_openai and await _is_ollama(session):
            return Kind.ollama
        status, body = await session.fetch(openai.MODELS_PATH)
        if status == NOT_FOUND and await _is_tei(session):
            return Kind.tei
    except WorkerFailed as error:
        raise _not_there(address) from error
    if status in (401, 403):
        raise key_refused(address)
    if status != 200 or not openai.is_model_list(body):
        raise UsageError(
            f"The server at {address.root} answers neither like Ollama nor like OpenAI's API nor like TEI.",
            "Check the URL, or name the kind of server with --upstream-kind.",
        )
    return Kind.openai


async def check_there(session: UpstreamSession, address: Address, kind: Kind) -> None:
    """Raises UsageError when a server of a kind that the user named does not answer as such."""
    path = _PROBES[kind]
    try:
        status, _ = await session.fetch(path)
    except WorkerFailed as error:
        raise _not_there(address) from error
    if status in (401, 403):
        raise key_refused(address)
    if status != 200:
        raise UsageError(
            f"The server at {address.root} answers {path} with status {status}.",
            "Check the URL, or leave out --upstream-kind to have it found out.",
        )


def key_refused(address: Address) -> UsageError:
    return UsageError(
        f"The server at {address.root} refuses our key.",
        "Put its key into an environment variable, and name that with --upstream-key-env.",
    )


async def _is_ollama(session: UpstreamSession) -> bool:
    status, body = await session.fetch(ollama.VERSION_PATH)
    return status == 200 and ollama.parse_version(body) is not None


async def _is_tei(session: UpstreamSession) -> bool:
    status, body = await session.fetch(tei.INFO_PATH)
    return status == 200 and tei.is_info(body)


async def _fetched(session: UpstreamSession, path: str) -> bytes:
    status, body = await session.fetch(path)
    if status != 200:
        raise WorkerFailed(f"it answers {path} with status {status}")
    return body


def _not_there(address: Address) -> UsageError:
    return UsageError(
        f"No server answers at {address.root}.", "Start it first, or check the host and port of --upstream."
    )
