"""Says what a row must be like to fit the layers of a stage."""

from __future__ import annotations

from dataclasses import dataclass

from p2pnet.stage_messages import ELEMENT_BYTES, StageDtype


@dataclass(frozen=True)
class Shape:
    """Of a token's hidden state: how many numbers, and of which type."""

    width: int
    dtype: StageDtype

    @property
    def token_bytes(self) -> int:
        return self.width * ELEMENT_BYTES[self.dtype]
