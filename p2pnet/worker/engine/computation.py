"""Defines the Computation protocol: what the engine needs of whatever it computes. Knows nothing of what that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch

from p2pnet.messages import FinishReason, Usage
from p2pnet.worker.engine.scheduler import Job

E = TypeVar("E", covariant=True)


class Computation(Protocol[E]):
    """Ids whose logits become events of type E. It is over once `finish_reason` is set."""

    @property
    def job(self) -> Job:
        """Its ids, to which it may add, as the scheduler sees them."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it is over, if it is."""

    @property
    def usage(self) -> Usage:
        """The tokens so far."""

    @property
    def prompt_ids(self) -> Sequence[int]:
        """Those of its ids that are the prompt: some runners compute them in another way than an answer's."""

    def rows_wanted(self, count: int) -> int:
        """For how many of the last of its next `count` ids the logits are needed."""

    def take(self, logits: torch.Tensor, start: int) -> Sequence[E]:
        """Take the wanted logits (rows, vocabulary) of the ids from position `start` to the last one computed.
        Returns what may be sent now.

        Raises WorkerFailed when they are not numbers.
        """
