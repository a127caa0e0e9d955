"""The models that the benchmarks ask: echoes without weights. Both sides of a comparison serve the same ones."""

from __future__ import annotations

import asyncio

from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions

INSTANT = "instant"
"""Hands over its tokens as fast as they are taken, without a turn of the event loop between them: all that can be
coalesced waits at once."""
STEPPED = "stepped"
"""Hands over one token per turn of the event loop, as a batching engine steps all its sequences: little waits."""
PACED = "paced"
"""Hands over one token every `PACE_S`, as a model does that 25 tokens a second are read of."""

PACE_S = 0.04
CONTEXT_LENGTH = 1 << 16


def instant() -> EchoBackend:
    return EchoBackend(EchoOptions(INSTANT, CONTEXT_LENGTH, says="numbers"))


def stepped() -> EchoBackend:
    return EchoBackend(EchoOptions(STEPPED, CONTEXT_LENGTH, says="numbers"), gate=_next_turn)


def paced(name: str, delay_s: float) -> EchoBackend:
    """One token every `delay_s`, as a model of that speed would give them."""
    return EchoBackend(EchoOptions(name, CONTEXT_LENGTH, says="numbers", delay_s=delay_s))


def text_of(tokens: int) -> str:
    """What all of them say, up to max_tokens."""
    return "".join(texts_of(tokens))


def texts_of(tokens: int) -> list[str]:
    """The same, token by token."""
    return [f"tok{index} " for index in range(tokens)]


async def _next_turn(index: int) -> None:
    await asyncio.sleep(0)
