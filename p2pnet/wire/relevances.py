"""Checks that a worker's answer has one score for each document. Pure."""

from __future__ import annotations

import math

from p2pnet.errors import ProtocolViolation
from p2pnet.messages import Accepted, Finished
from p2pnet.rerank_messages import Relevance, RerankRequest


class RelevanceCheck:
    """Follows one answer."""

    def __init__(self, request: RerankRequest) -> None:
        self._missing = set(range(len(request.documents)))

    def check(self, event: Accepted | Relevance | Finished) -> None:
        """Check the next event, whichever it is. Raises ProtocolViolation."""
        match event:
            case Relevance(index, score):
                if index not in self._missing:
                    raise ProtocolViolation(f"a score for document {index}, which is not waiting for one")
                if not math.isfinite(score):
                    raise ProtocolViolation(f"the score of document {index} is not finite")
                self._missing.remove(index)
            case Finished() if self._missing:
                raise ProtocolViolation(f"the worker finished, and {len(self._missing)} scores are missing")
