"""Says whether other tokens than a receipt is of are what other hardware's rounding explains.

A receipt has a hash of the ids alone. With the text at hand the model is held to it: of the tokens that say it, those
that it samples, or finds likeliest, are nearly always the ones that were given, and the hash says whether they are.
Knows nothing of files.
"""

from __future__ import annotations

import msgspec

from p2pnet.answer_forms import MAX_PATTERN_CHARS, RegexFormat
from p2pnet.errors import RequestError, WorkerFailed
from p2pnet.messages import ChatPrompt, GenerateRequest, Sampling, TextDelta
from p2pnet.receipts.hashing import AnswerHash
from p2pnet.receipts.signed import Receipt
from p2pnet.score_messages import Scored, ScoreRequest
from p2pnet.worker.backend import ScoreBackend

MAX_MEAN_MARGIN = 0.02
"""Of all tokens of an answer, in units of logits. Of honest workers it is 0.003 in bfloat16, and 0.006 where llama.cpp
has other kernels; weights of four bits for others have 0.02 and more (docs/audits.md)."""


async def margins(
    backend: ScoreBackend, request: GenerateRequest, receipt: Receipt, text: str
) -> tuple[float, ...] | None:
    """The margin of each token that the receipt is of, by this backend. None where they cannot be found: the answer has
    a form of its own, is too long for a pattern, or its text can be said by other tokens. `request` is for one
    answer, with the backend's own digest and sampler."""
    ids = await _ids_of(backend, request, receipt.ids_hash, text)
    if not ids:
        return None
    found: list[float] = []
    try:
        async for event in backend.score(ScoreRequest(request, ids)):
            if isinstance(event, Scored):
                found += event.values
    except (RequestError, WorkerFailed):
        return None
    return tuple(found)


async def _ids_of(
    backend: ScoreBackend, request: GenerateRequest, ids_hash: bytes, text: str
) -> tuple[int, ...] | None:
    pattern = "".join(map(_literal, text))
    has_tools = isinstance(request.prompt, ChatPrompt) and bool(request.prompt.tools)
    if request.response_format is not None or has_tools or not 0 < len(pattern) <= MAX_PATTERN_CHARS:
        return None
    held = msgspec.structs.replace(request, response_format=RegexFormat(pattern), stop=())
    for sampling in (held.sampling, Sampling(temperature=0)):
        ids: list[int] = []
        hashed = AnswerHash(1)
        try:
            async for event in backend.generate(msgspec.structs.replace(held, sampling=sampling)):
                if isinstance(event, TextDelta) and not event.is_prompt:
                    hashed.note(event)
                    ids += event.token_ids
        except (RequestError, WorkerFailed):
            return None
        if hashed.ids_hash == ids_hash:
            return tuple(ids)
    return None


def _literal(character: str) -> str:
    """As Rust's regular expressions take it for itself."""
    return character if character.isalnum() or character == " " else f"\\x{{{ord(character):x}}}"
