"""Runs all checks, each within its time limit, and gives their verdicts in a fixed order.

Knows nothing of how they are printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from p2pnet.config import DEFAULT_LISTEN, NetworkConfig
from p2pnet.doctor import machine, machine_verdicts, network_verdicts
from p2pnet.doctor.network import ask_gateway, ask_workers, meet, relay_offers, seen_by
from p2pnet.doctor.network_verdicts import Asked, Met, Seen
from p2pnet.doctor.verdict import Verdict, failed, ok
from p2pnet.errors import UsageError
from p2pnet.peer import Peer, now_ms
from p2pnet.swarm.membership import Membership

T = TypeVar("T")

GPU_S = 60.0
"""To import torch from a slow disk for the first time."""
MODEL_S = 60.0
"""To import all of it besides, beside the former."""
NAT_S = 45.0
WORKERS_S = 70.0
"""A directory that is read, and three workers that do not answer."""


@dataclass(frozen=True)
class Wishes:
    """What is to be checked. `no_network` is the verdict in place of the network's checks where there is no network to
    join."""

    data_dir: Path
    listen: tuple[str, ...] = DEFAULT_LISTEN
    initial_peers: tuple[str, ...] = ()
    membership: Membership | None = None
    no_network: UsageError | None = None
    gateway: str | None = None
    key: str | None = None


async def examine(wishes: Wishes) -> AsyncGenerator[Verdict, None]:
    """Yields one verdict after the other. Never raises, and ends within two minutes."""
    gpu = asyncio.create_task(_in_time(machine.look_at_gpu(), GPU_S, _SLOW_TORCH))
    llama = asyncio.create_task(_in_time(machine.look_at_llama(), GPU_S, _SLOW_LLAMA))
    model = asyncio.create_task(_in_time(machine.try_model(), MODEL_S, f"it took longer than {MODEL_S:.0f} s"))
    gateway = None if wishes.gateway is None else asyncio.create_task(ask_gateway(wishes.gateway, wishes.key))
    try:
        yield machine_verdicts.judge_python(sys.version_info[:3])
        yield machine_verdicts.judge_packages(machine.look_at_packages())
        for disk in machine.look_at_disks(wishes.data_dir):
            yield machine_verdicts.judge_disk(disk)
        yield machine_verdicts.judge_memory(machine.look_at_memory())
        yield machine_verdicts.judge_gpu(await gpu)
        yield machine_verdicts.judge_model(await model)
        yield machine_verdicts.judge_llama(await llama)
        ports = machine.look_at_ports(wishes.listen)
        yield machine_verdicts.judge_ports(ports)
        are_free = all(port.problem is None for port in ports)
        async for verdict in _examine_network(wishes, wishes.listen if are_free else DEFAULT_LISTEN):
            yield verdict
        if gateway is not None:
            yield network_verdicts.judge_gateway(await gateway)
    finally:
        for task in (gpu, llama, model, gateway):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


_SLOW_TORCH = machine_verdicts.Gpu(problem=f"it was not imported within {GPU_S:.0f} s")
_SLOW_LLAMA = machine_verdicts.Llama(problem=f"it was not imported within {GPU_S:.0f} s")


async def _examine_network(wishes: Wishes, listen: tuple[str, ...]) -> AsyncIterator[Verdict]:
    if wishes.no_network is not None:
        yield failed("bootstrap", wishes.no_network.message.rstrip("."), wishes.no_network.fix)
        return
    async with contextlib.AsyncExitStack() as closing:
        try:
            peer = await _visitor(listen, wishes.membership, closing)
        except UsageError as error:
            yield failed("p2pd", error.message.rstrip("."), error.fix)
            return
        yield ok("p2pd", "runs")
        if wishes.membership is not None:
            yield network_verdicts.judge_membership(wishes.membership.invitation, now_ms())
        met = tuple(await asyncio.gather(*(meet(peer.network, address) for address in wishes.initial_peers)))
        for one in met:
            yield network_verdicts.judge_met(one)
        yield network_verdicts.judge_clock(now_ms(), met)
        if any(one.meeting is not None for one in met):
            for verdict in await _examine_joined(peer, met):
                yield verdict


async def _examine_joined(peer: Peer, met: tuple[Met, ...]) -> tuple[Verdict, ...]:
    nobody: tuple[Asked, ...] = ()
    seen, offers, asked = await asyncio.gather(
        _in_time(seen_by(peer.network, met), NAT_S, (Seen(),)),
        relay_offers(peer.network, met),
        _in_time(ask_workers(peer.network, peer.directory, random.Random()), WORKERS_S, nobody),
    )
    relay = network_verdicts.judge_relay(offers, any(each.is_behind_nat for each in seen))
    return *map(network_verdicts.judge_nat, seen), relay, network_verdicts.judge_round_trip(asked)


async def _visitor(listen: tuple[str, ...], membership: Membership | None, closing: contextlib.AsyncExitStack) -> Peer:
    """A peer with an identity of its own for these questions. It listens and asks the router for ports as a worker
    would, and stores nothing for others."""
    folder = closing.enter_context(TemporaryDirectory(prefix="p2pnet-"))
    config = NetworkConfig(Path(folder) / "doctor.key", listen=listen, is_client=True, asks_router=True)
    peer = await Peer.join(config, membership=membership)
    closing.push_async_callback(peer.close)
    return peer


async def _in_time(check: Coroutine[object, object, T], limit_s: float, otherwise: T) -> T:
    try:
        async with asyncio.timeout(limit_s):
            return await check
    except TimeoutError:
        return otherwise
