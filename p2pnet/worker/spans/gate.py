"""Stands in for each layer of a model, so that a forward pass runs some of them only: hidden states come in at one
layer and are taken out after another.

All layers keep their places, so what a model says of a layer by its number stays true. Knows nothing of checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from p2pnet.errors import UsageError


class Passage:
    """What one forward pass carries through a model's gates."""

    def __init__(self) -> None:
        self.first = 0
        self.last = 0
        self.entering: torch.Tensor | None = None
        self.leaving: torch.Tensor | None = None

    @contextmanager
    def of(self, first: int, last: int, entering: torch.Tensor | None = None) -> Iterator[None]:
        """Within this context, layers [first, last) run, on `entering` where it is given. For [n, n) none runs, and
        `leaving` is what comes to layer n."""
        self.first, self.last, self.entering, self.leaving = first, last, entering, None
        try:
            yield
        finally:
            self.entering = None

    def taken(self) -> torch.Tensor:
        """What has come out, once."""
        found, self.leaving = self.leaving, None
        if not isinstance(found, torch.Tensor):
            raise TypeError("its layers do not give hidden states and nothing else")
        return found


class Gate(nn.Module):
    """A layer, or the place of one that is not here."""

    def __init__(self, index: int, layer: nn.Module | None, passage: Passage) -> None:
        super().__init__()
        self.index = index
        self.layer = layer
        self.passage = passage

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The hidden states after this layer; those before it where it does not run in this pass."""
        passage, found = self.passage, hidden_states
        if self.index == passage.first and passage.entering is not None:
            found = passage.entering
        if self.index == passage.first == passage.last:
            passage.leaving = found
        if passage.first <= self.index < passage.last:
            assert self.layer is not None  # who asks for a span was checked
            found = self.layer(found, *args, **kwargs)
        if self.index == passage.last - 1:
            passage.leaving = found
        return found


def layers_of(model: Any) -> nn.ModuleList:
    """A model's list of layers. Raises UsageError when it cannot be told which that is."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in model.modules():  # outer ones first
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UsageError(
        "The layers of this model are not one list, so it cannot be parted.", "Serve it whole, without --layers."
    )
