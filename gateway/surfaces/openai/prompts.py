"""Merges the generations of several prompts in one /v1/completions request into one stream. Also leaves only the echo
of a prompt, where nothing else is wanted.

Knows nothing of HTTP, nor of how a generation comes about.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from gateway.interface import GenerationEvent, Routed, Waiting
from p2pnet.flow.interleaving import interleaved
from p2pnet.messages import Accepted, Finished, TextDelta, Usage

Events = AsyncGenerator[GenerationEvent, None]
_Numbered = tuple[int, GenerationEvent]


async def side_by_side(generations: Sequence[Events], choices: int) -> Events:
    """One generation of all prompts' choices, of which each has as many: those of prompt p begin at p * choices.

    It is routed and accepted where the first prompt to begin is; once workers with different digests take part, it has
    none. It is finished when all are, so never when one of them just ends. The first error ends it, and closing it
    closes all.
    """
    finished: dict[int, Finished] = {}
    accepted: Accepted | None = None
    is_routed = False
    async with aclosing(interleaved([_numbered(number, each) for number, each in enumerate(generations)])) as events:
        async for number, event in events:
            match event:
                case TextDelta():
                    yield msgspec.structs.replace(event, choice=number * choices + event.choice)
                case Finished():
                    finished[number] = event
                case Waiting():
                    if not is_routed:
                        yield event
                case Routed():
                    if not is_routed:
                        yield event
                    is_routed = True
                case Accepted():
                    if accepted is None or event.fingerprint != accepted.fingerprint:
                        accepted = event if accepted is None else msgspec.structs.replace(accepted, digest=None)
                        yield accepted
    if len(finished) == len(generations):
        yield _whole([finished[number] for number in range(len(generations))])


async def only_prompt(events: Events) -> Events:
    """The same generation with nothing of the answers, as if none had been asked for."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finished):
                usage = msgspec.structs.replace(event.usage, completion_tokens=0)
                yield Finished("length", usage, other_reasons=tuple("length" for _ in event.other_reasons))
            elif not isinstance(event, TextDelta) or event.is_prompt:
                yield event


async def _numbered(number: int, events: Events) -> AsyncGenerator[_Numbered, None]:
    async with aclosing(events):
        async for event in events:
            yield number, event


def _whole(parts: Sequence[Finished]) -> Finished:
    usages = [part.usage for part in parts]
    usage = Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
    )
    reasons = [reason for part in parts for reason in (part.reason, *part.other_reasons)]
    return Finished(reasons[0], usage, other_reasons=tuple(reasons[1:]))
