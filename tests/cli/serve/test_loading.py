"""What is noticed before a model is fetched or read."""

from __future__ import annotations

import pytest
import torch

from p2pnet.cli.loading import load_models
from p2pnet.config import ModelConfig
from p2pnet.errors import UsageError


async def test_a_device_that_is_not_there_is_known_before_a_model_is_looked_for() -> None:
    missing = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UsageError, match=f"The device '{missing}' is not available here"):
        await load_models(["/no/such/folder"], ModelConfig(device=missing), slots=1)
