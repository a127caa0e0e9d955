"""Workers whose model says what a test has written: they start in half the time of one with weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.processes import Process, Start

TOKEN_DELAY_S = 0.01


def scripted(
    start: Start,
    peer: str,
    model: str,
    text: str,
    *arguments: str,
    name: str = "",
    token_delay_s: float = TOKEN_DELAY_S,
    beside: Sequence[Mapping[str, Any]] = (),
) -> Process:
    """One with this model and those beside it, which is starting."""
    says = {"model": model, "answers": [{"text": text}], "token_delay_s": token_delay_s}
    script = start.root / f"{model}.json"
    script.write_text(json.dumps([says, *beside]))
    return start.worker("--script", str(script), *arguments, peer=peer, name=name or model)
