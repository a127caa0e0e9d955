"""What a stage says of its speed, and what it keeps when it has ended."""

from __future__ import annotations

import gc
import weakref

from p2pnet.stage_messages import Piece, StageResult
from p2pnet.worker.stages.computing import SMALL_PASS_TOKENS
from tests.worker.stages.stage_swarm import numbers, row, stage_swarm


async def test_a_prompt_does_not_make_a_stage_look_slow() -> None:
    async with stage_swarm("whole") as swarm:
        driver = await swarm.open("whole", 0, 4)
        tokens = SMALL_PASS_TOKENS + 1
        await driver.say(row("whole", 1, Piece(1, 0, tokens)), numbers(*range(tokens)))
        assert isinstance(await driver.told(), StageResult)
        assert swarm.stages["whole"].load.step_ms == 0.0
        await driver.say(row("whole", 2, Piece(1, tokens, 1, 1)), numbers(1.0))
        assert isinstance(await driver.told(), StageResult)
        assert swarm.stages["whole"].load.step_ms > 0.0


async def test_a_stage_that_has_ended_lets_go_of_its_layers() -> None:
    """Its peer still knows who served last: a machine that takes other layers has no room for both."""
    async with stage_swarm("whole") as swarm:
        layers = weakref.ref(swarm.runners.pop("whole"))
        await swarm.stages["whole"].stop()
        gc.collect()
        assert layers() is None
