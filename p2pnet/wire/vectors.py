"""Checks that a worker's answer has one vector for each input, all alike. Pure.

A vector is float32 numbers, little-endian.
"""

from __future__ import annotations

import math
import struct

from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import ProtocolViolation
from p2pnet.messages import Accepted, Finished

NUMBER_BYTES = 4


class VectorCheck:
    """Follows one answer. Every check raises ProtocolViolation."""

    def __init__(self, request: EmbedRequest) -> None:
        self._missing = set(range(len(request.inputs)))
        self._vector_bytes = None if request.dimensions is None else NUMBER_BYTES * request.dimensions

    def check(self, event: Accepted | Embedding | Finished) -> None:
        """Check the next event, whichever it is."""
        match event:
            case Embedding():
                self.check_embedding(event)
            case Finished():
                self.check_finished()

    def check_embedding(self, embedding: Embedding) -> None:
        """Check one more vector."""
        if embedding.index not in self._missing:
            raise ProtocolViolation(f"a vector for input {embedding.index}, which is not waiting for one")
        self._missing.remove(embedding.index)
        size = len(embedding.vector)
        if self._vector_bytes is None:
            self._vector_bytes = size
        if size != self._vector_bytes or size % NUMBER_BYTES:
            raise ProtocolViolation(f"a vector of {size} bytes, {self._vector_bytes} expected")
        if not is_finite(embedding.vector):
            raise ProtocolViolation(f"the vector of input {embedding.index} is not finite")

    def check_finished(self) -> None:
        """Check the answer's end."""
        if self._missing:
            raise ProtocolViolation(f"the worker finished, and {len(self._missing)} vectors are missing")


def is_finite(vector: bytes) -> bool:
    """Whether all numbers of a vector are finite. They are if and only if their sum is: float32 numbers are too small
    to exceed a double by adding, and neither infinity nor NaN can be added away."""
    return math.isfinite(sum(struct.unpack(f"<{len(vector) // NUMBER_BYTES}f", vector)))
