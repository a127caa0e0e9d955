"""Says, in a process of its own, what the llama.cpp that is installed here can compute on: `p2pnet doctor` asks it.

A library that was built for another machine may take its process with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from p2pnet.errors import UsageError
from p2pnet.worker.gguf.library import accelerators, family, is_installed


@dataclass(frozen=True)
class Offer:
    """`version` None is none installed, and `problem` what is wrong with the one that is. `devices` are those beside
    the processor, by their names."""

    version: str | None = None
    devices: tuple[str, ...] = ()
    problem: str | None = None


def look() -> Offer:
    if not is_installed():
        return Offer()
    try:
        devices = tuple(f"{device.description} (--device {device.kind})" for device in accelerators())
        return Offer(family().rpartition("/")[2], devices)
    except UsageError as error:
        return Offer(problem=error.message)


if __name__ == "__main__":
    print(msgspec.json.encode(look()).decode())
