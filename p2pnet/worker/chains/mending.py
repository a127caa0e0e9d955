"""Puts other stages in the place of those that a chain has lost: those that stand by, or whoever has their layers.

The others keep what they have. Knows nothing of sequences.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from p2pnet.worker.chains.chain import Chain
from p2pnet.worker.chains.choosing import Leg
from p2pnet.worker.chains.member import Member

Choose = Callable[[int, int], Awaitable[Sequence[Leg] | None]]
"""Stages that have the layers from the first to before the second of these, and are not in the chain."""


async def mend(chain: Chain, choose: Choose) -> bool:
    """Whether all that was lost could be replaced. Raises ChainFault when a stage that was chosen cannot be used."""
    while (gap := _gap(chain)) is not None:
        start, end = gap
        members: Sequence[Member]
        if (spare := spare_for(chain, chain.members[start])) is not None:
            members = (spare,)
        else:
            legs = await choose(chain.members[start].leg.first, chain.members[end - 1].leg.last)
            if legs is None:
                return False
            members = await chain.join(legs)
        chain.replace(start, end, members)
    return not chain.is_closed


def spare_for(chain: Chain, member: Member) -> Member | None:
    """Who stands by for a stage."""
    span = (member.leg.first, member.leg.last)
    return next((spare for spare in chain.spares if (spare.leg.first, spare.leg.last) == span), None)


def _gap(chain: Chain) -> tuple[int, int] | None:
    """From which number to before which stages are lost: one, where another stands by for it, or as many as follow one
    another. None where there are none."""
    lost = [number for number, member in enumerate(chain.members) if not member.is_usable]
    if not lost:
        return None
    end = start = lost[0]
    while end in lost and spare_for(chain, chain.members[end]) is None:
        end += 1
    return start, max(end, start + 1)
