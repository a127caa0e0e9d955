"""Which commands `p2pnet up` runs, from what was found and agreed to. Decides on data; runs nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One of our own: `p2pnet` and these words."""

    name: str
    """What it is, for people: bootstrap, gateway, worker."""
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(("p2pnet", *self.words))


@dataclass(frozen=True)
class Lent:
    """What this machine gives: models that it loads itself, and servers that it has."""

    models: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.models or self.upstreams)


def network_words(named: Sequence[str], swarm: str | None, invite: str | None) -> tuple[str, ...]:
    """The flags by which each command joins the same network. None of them: the bootstrap file says."""
    if swarm is not None:
        return ("--swarm", swarm, *_each("--initial-peers", named))
    if invite is not None:
        return ("--invite", invite)
    return _each("--initial-peers", named)


def bootstrap() -> Command:
    """Where no network is named, this machine is the first of one."""
    return Command("bootstrap", ("bootstrap",))


def gateway(port: int, network: Sequence[str]) -> Command:
    return Command("gateway", ("gateway", "--port", str(port), *network))


def worker(lent: Lent, network: Sequence[str]) -> Command:
    """One worker for all that is lent: it has one identity, and the owner one thing to pause."""
    flags = (*_each("--model", lent.models), *_each("--upstream", lent.upstreams))
    return Command("worker", ("serve", *flags, *network))


def _each(flag: str, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for value in values for word in (flag, value))
