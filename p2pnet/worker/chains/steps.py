"""What is asked of the stages of a chain and has not come yet, and whose fault it is when it does not.

Knows nothing of streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from p2pnet.stage_messages import BAD_NUMBERS, BAD_ROW, NEXT_LOST, StageReplay, StageResult, StageRow
from p2pnet.worker.chains.member import Member


@dataclass(eq=False)
class Step:
    """A step that is under way through some stages. `passed` is how many of them have passed it on."""

    asked: StageRow | StageReplay
    members: Sequence[Member]
    done: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    passed: int = 0

    @property
    def waited_for(self) -> Sequence[Member]:
        """Those of whom one holds it up now. None of what is spare, which nobody waits for."""
        return () if self.asked.is_spare else self.members[self.passed :]

    def fits(self, result: StageResult) -> bool:
        """Whether it is of the form that was asked for."""
        asked = self.asked
        if isinstance(asked, StageReplay):
            return result.tokens == 0
        wanted = sum(piece.wanted for piece in asked.pieces)
        return (result.tokens, result.width, result.dtype) == (wanted, asked.width, asked.dtype)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


def blamed(number: int, code: str, stages: int) -> int:
    """Whose fault a refusal is: what does not fit comes from the stage before, and where the next cannot be reached it
    is the next one's. The driver's own rows fit."""
    if code in (BAD_ROW, BAD_NUMBERS):
        return max(0, number - 1)
    return min(number + 1, stages - 1) if code == NEXT_LOST else number
