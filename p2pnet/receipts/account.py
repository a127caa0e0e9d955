"""Follows one exchange and makes the statements about it: the same at both of its ends, so that each can check what the
other has signed. Pure; the clock is passed in."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from p2pnet.messages import Accepted, Failed, Finished, GenerateRequest, TextDelta, Usage
from p2pnet.receipts.hashing import AnswerHash
from p2pnet.receipts.signed import Acknowledgement, Receipt, Verdict, check_agrees
from p2pnet.receipts.statement import open_statement


@dataclass(frozen=True)
class Parties:
    """The two ends of an exchange, by their peer ids."""

    worker: str
    gateway: str


class Account:
    """One exchange's. `request_hash` is that of the request as it was sent."""

    def __init__(self, parties: Parties, request: GenerateRequest, request_hash: bytes, began_ms: int) -> None:
        self._parties = parties
        self._request = request
        self._request_hash = request_hash
        self._began_ms = began_ms
        self._answer = AnswerHash(request.n)
        self._digest: str | None = None
        self._sampler = ""
        self._prompt_tokens = 0

    def note(self, event: Accepted | TextDelta | Finished) -> None:
        """Take the next event as it is sent."""
        if isinstance(event, TextDelta):
            self._answer.note(event)
        elif isinstance(event, Accepted):
            self._digest, self._sampler = event.digest, event.sampler
            self._prompt_tokens = event.prompt_tokens

    @property
    def has_tokens(self) -> bool:
        """Whether anything of the answer was sent."""
        return self._answer.tokens > 0

    def receipt(self, end: Finished | Failed, ended_ms: int) -> Receipt:
        """What the worker has to sign. One that broke off has computed what it sent, as far as it says."""
        usage = Usage(self._prompt_tokens, self._answer.tokens) if isinstance(end, Failed) else end.usage
        return Receipt(
            worker=self._parties.worker,
            gateway=self._parties.gateway,
            request_hash=self._request_hash,
            ids_hash=self._answer.ids_hash,
            text_hash=self._answer.text_hash,
            model=self._request.model,
            reason="failed" if isinstance(end, Failed) else end.reason,
            began_ms=self._began_ms,
            ended_ms=max(self._began_ms, ended_ms),
            seed=self._request.sampling.seed,
            digest=self._digest,
            sampler=self._sampler,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            tokens=self._answer.tokens,
            text_bytes=self._answer.text_bytes,
        )

    def acknowledgement(self, verdict: Verdict, issued_ms: int) -> Acknowledgement:
        """What the gateway has to sign."""
        return Acknowledgement(
            gateway=self._parties.gateway,
            worker=self._parties.worker,
            request_hash=self._request_hash,
            ids_hash=self._answer.ids_hash,
            model=self._request.model,
            verdict=verdict,
            issued_ms=issued_ms,
            tokens=self._answer.tokens,
            answer_tokens=len(self._request.resume_tokens) + self._answer.tokens,
        )

    def check_receipt(self, sealed: bytes, end: Finished | Failed) -> Receipt:
        """Raises ReceiptRefused unless the worker has signed what has come. Its clock is its own affair."""
        said = open_statement(sealed, Receipt)
        seen = msgspec.structs.replace(self.receipt(end, 0), began_ms=said.began_ms, ended_ms=said.ended_ms)
        check_agrees(said, seen)
        return said

    def check_acknowledgement(self, sealed: bytes) -> Acknowledgement:
        """Raises ReceiptRefused unless the gateway has signed what was sent. The verdict is its own, and
        so is what it says of more than this answer."""
        said = open_statement(sealed, Acknowledgement)
        seen = self.acknowledgement(said.verdict, said.issued_ms)
        check_agrees(said, msgspec.structs.replace(seen, total=said.total, vouch=said.vouch))
        return said
