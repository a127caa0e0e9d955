"""Sends linear layers on a CPU through oneDNN. That is faster for few rows, and gives the same for a row whatever is
beside it.

For float32, torch asks another library (MKL) by default, which packs the weights anew for every product: with 1 to 32
rows that costs more than the product itself; `python -m bench.linear` compares the two on the machine at hand. And with
two rows or more oneDNN computes each row in the same order however many there are, so that what else is in a batch
changes nothing; a lone row gets a second one for that. Knows nothing of sequences.
"""

from __future__ import annotations

from typing import Any

import torch

MIN_ROWS = 2
"""One row is a product with a vector, which oneDNN computes in another order."""


class OneDnnLinear(torch.nn.Linear):
    """A Linear with the same weights and results, up to rounding."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, self.in_features)
        count = len(rows)
        if count < MIN_ROWS:
            rows = rows.expand(MIN_ROWS, -1)
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return found[:count].view(*input.shape[:-1], self.out_features)


def use_onednn(model: Any) -> None:
    """Replace the model's plain float32 layers on the CPU by OneDnnLinears, where this torch has them. Their weights
    stay where they are."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):  # type: ignore[no-untyped-call]
        return
    for module in model.modules():
        if (
            type(module) is torch.nn.Linear
            and module.weight.dtype == torch.float32
            and module.weight.device.type == "cpu"
        ):
            module.__class__ = OneDnnLinear
