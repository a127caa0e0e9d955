"""Defines the Constraint protocol: what may come next in an answer that must have a form. Knows nothing of grammars."""

from __future__ import annotations

from typing import Protocol

import torch


class Constraint(Protocol):
    """Follows one answer, token by token. A function of the tokens alone, so that another worker can go on with it."""

    @property
    def is_complete(self) -> bool:
        """Whether the form is complete: nothing may follow but an end token."""

    def allowed(self) -> torch.Tensor:
        """Which ids may come next, as booleans (vocabulary,): at least one. End tokens are among them wherever the form
        may end."""

    def accept(self, token_id: int) -> None:
        """Take the next token of the answer, one of those allowed, which may be an end token.

        Raises InvalidRequest for another one, which can only come from an answer that this one goes on with.
        """
