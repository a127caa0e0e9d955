"""Gathers the facts about the network, as this machine sees it. They are: who can be met, how others see us, who
relays, and whether a worker answers. Judges none of them, and is handed its network.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Sequence

import httpx

from p2pnet.client import generate
from p2pnet.directory import Directory
from p2pnet.doctor.network_verdicts import Asked, Mapping, Met, Seen, ThroughGateway
from p2pnet.errors import P2PNetError
from p2pnet.loopback import is_loopback
from p2pnet.messages import Accepted, GenerateRequest, TextPrompt
from p2pnet.network.interface import Network
from p2pnet.network.libp2p.autonat import DialBack
from p2pnet.network.libp2p.relay import HOP_PROTOCOL, GrantedLimits, reserve
from p2pnet.network.multiaddrs import FAMILIES, peer_id_of
from p2pnet.network.reach.candidates import is_quic
from p2pnet.network.reach.sight import Sight, look

MAX_ASKED = 3
"""Peers that are asked to dial back, and workers that are asked for a token: enough for one of them to be well."""
ANSWER_S = 10.0
"""For anything that is one question and one answer."""
WAY_LOOK_S, WAY_LOOKS = 0.1, 15
"""A network looks at its connections once a second."""
TOKEN_S = 20.0
"""For one token: a cold model is loaded first."""


async def meet(network: Network, address: str) -> Met:
    """Meets one initial peer. Never raises."""
    try:
        return Met(address, meeting=await network.meet(address))
    except P2PNetError as error:
        return Met(address, problem=error.message)


async def seen_by(network: Network, met: Sequence[Met]) -> tuple[Seen, ...]:
    """How the peers that were met see us, the first few of them: over IPv4, and over IPv6 where some do so. Never
    raises."""
    peers = _peers_of(met)[:MAX_ASKED]
    own = await network.addresses()
    sights = await asyncio.gather(*(look(network.open_raw_stream, peer_id, network.peer_id, own) for peer_id in peers))
    by_family = ([sight for sight in sights if sight.family == family] for family in FAMILIES)
    return tuple(_put_together(known) for known in by_family if known) or (Seen(),)


def _put_together(known: Sequence[Sight]) -> Seen:
    """What several peers say that see us over the same family."""
    best = next((sight for sight in known if not sight.is_near), known[0])
    transports = dict.fromkeys(tried.transport for sight in known for tried in sight.tried)
    dialled = tuple((name, _together(known, name)) for name in transports)
    return Seen(best.observed, best.is_near, dialled, mapping_of([sight.observed for sight in known if sight.observed]))


def mapping_of(observed: Sequence[str]) -> Mapping | None:
    """What the places at which several peers see us say of our router: only QUIC leaves from one port."""
    seen = [address for address in observed if is_quic(address)]
    if len(seen) < 2:
        return None
    return Mapping.ONE_FOR_ALL if len(set(seen)) == 1 else Mapping.ONE_FOR_EACH


async def relay_offers(network: Network, met: Sequence[Met]) -> tuple[GrantedLimits | None, ...]:
    """What each peer that was met grants as a relay; None where it does not relay. Never raises."""
    return tuple(await asyncio.gather(*(_offer(network, peer_id) for peer_id in _peers_of(met))))


async def ask_workers(network: Network, directory: Directory, chance: random.Random) -> tuple[Asked, ...]:
    """Ask one worker after the other for a token, until one gives it. Never raises."""
    offered = [
        (worker, card.id) for worker in await directory.workers() for card in worker.models if card.task == "generate"
    ]
    asked: list[Asked] = []
    for worker, model in chance.sample(offered, min(MAX_ASKED, len(offered))):
        asked.append(await _ask(network, worker.peer_id, worker.addresses, model))
        if asked[-1].took_s is not None:
            break
    return tuple(asked)


async def ask_gateway(url: str, key: str | None) -> ThroughGateway:
    """Ask a gateway for one token of any model. Never raises."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"model": "auto", "prompt": "Hello", "max_tokens": 1}
    began_s = time.monotonic()
    try:
        async with httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=headers, timeout=TOKEN_S, trust_env=not is_loopback(url)
        ) as client:
            response = await client.post("/v1/completions", json=body)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        return ThroughGateway(url, problem=str(error) or type(error).__name__)
    return ThroughGateway(url, response.status_code, time.monotonic() - began_s, _error_in(response))


def _peers_of(met: Sequence[Met]) -> list[str]:
    """Each peer that could be met, once."""
    reached = (peer_id_of(one.address) for one in met if one.meeting is not None)
    return list(dict.fromkeys(peer_id for peer_id in reached if peer_id is not None))


def _together(sights: Sequence[Sight], transport: str) -> DialBack:
    """Puts together what several peers say. One that has reached us proves that it can be done; one that tried and has
    not counts for more than those that did not try."""
    outcomes = {tried.outcome for sight in sights for tried in sight.tried if tried.transport == transport}
    return next((each for each in DialBack if each in outcomes), DialBack.NOT_TRIED)


async def _offer(network: Network, peer_id: str) -> GrantedLimits | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            stream = await network.open_raw_stream(peer_id, HOP_PROTOCOL)
            try:
                reservation = await reserve(stream)
                return None if reservation is None else reservation.limits
            finally:
                stream.close()
    except (P2PNetError, TimeoutError):
        return None


async def _ask(network: Network, peer_id: str, addresses: Sequence[str], model: str) -> Asked:
    request = GenerateRequest(f"doctor-{uuid.uuid4()}", model, TextPrompt("Hello"), max_tokens=1)
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(TOKEN_S):
            events = generate(network, peer_id, request, addresses)
            try:
                async for event in events:
                    if not isinstance(event, Accepted):
                        took_s = time.monotonic() - began_s
                        return Asked(peer_id, model, took_s=took_s, is_direct=await _way_to(network, peer_id))
            finally:
                await events.aclose()
    except TimeoutError:
        return Asked(peer_id, model, problem=f"no token within {TOKEN_S:.0f} s")
    except P2PNetError as error:
        return Asked(peer_id, model, problem=error.message)
    return Asked(peer_id, model, problem="it gave none")


async def _way_to(network: Network, peer_id: str) -> bool | None:
    """Whether a peer that is connected is so without a relay, as soon as that is known."""
    for _ in range(WAY_LOOKS):
        if (is_direct := network.is_direct_to(peer_id)) is not None:
            return is_direct
        await asyncio.sleep(WAY_LOOK_S)
    return None


def _error_in(response: httpx.Response) -> str | None:
    if response.status_code == 200:
        return None
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return response.reason_phrase
