"""Which requests a worker is serving, in a file that survives its `kill -9`: the ground truth of who was cut.

A request is known by its prompt, which is the same wherever it is sent.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.harness.chain_model import Note, asked
from p2pnet.messages import GenerateRequest


def served_log(path: Path | None) -> Note | None:
    """What writes the file, one line for each begin and each end."""
    if path is None:
        return None
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(request: GenerateRequest, is_begin: bool) -> None:
        os.write(handle, f"{'+' if is_begin else '-'}{asked(request.prompt)}\n".encode())

    return note


def being_served(path: Path) -> frozenset[str]:
    """The prompts that are under way, or were when the worker was killed."""
    open_prompts: dict[str, int] = {}
    if not path.exists():
        return frozenset()  # it was still starting
    for line in path.read_text().splitlines():
        prompt = line[1:]
        open_prompts[prompt] = open_prompts.get(prompt, 0) + (1 if line[0] == "+" else -1)
    return frozenset(prompt for prompt, count in open_prompts.items() if count > 0)
