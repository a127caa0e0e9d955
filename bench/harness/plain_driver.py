"""A driver of chains that guesses nothing, to compare with: in all else `p2pnet drive`, whose flags it takes."""

from __future__ import annotations

from p2pnet.cli.main import main
from p2pnet.worker.backends.chain import ChainBackend
from p2pnet.worker.engine.runner import Runner


def guesses_nothing(self: ChainBackend, runner: Runner) -> None:
    """In the place of `ChainBackend._speculation`."""


if __name__ == "__main__":
    setattr(ChainBackend, "_speculation", guesses_nothing)  # noqa: B010 - it is no method that may be assigned to
    main()
