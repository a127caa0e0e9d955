"""`p2pnet verify`: what a receipt proves, checked on this machine alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnet.cli import options
from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.quantization import WantedQuantization

if TYPE_CHECKING:
    from p2pnet.config import ModelConfig
    from p2pnet.messages import GenerateRequest
    from p2pnet.receipts.checking import Checked
    from p2pnet.receipts.signed import Acknowledgement, Receipt
    from p2pnet.worker.backend import Backend

SIGNED = "Shown: these workers have signed this. Whether they computed it with that model is not."
TEXT = "Shown: these workers have signed this, and this text is what they gave. How they computed it is not."
ACKNOWLEDGED = "Shown: these gateways have signed this. What a gateway's word is worth is for you to say."
NEARLY = (
    "Shown: these workers have signed this, and the model gives nearly the same tokens on this machine: they differ as "
    "other hardware's rounding makes them differ."
)
COMPUTED = "Shown: these workers have signed this, and the model gives the same tokens on this machine."


def verify(
    receipt: Annotated[
        Path,
        typer.Argument(
            envvar="P2PNET_RECEIPT",
            metavar="FILE",
            help="A document of receipts, as a gateway gives it, or what `p2pnet given --signed` prints.",
        ),
    ],
    answer: Annotated[
        list[Path],
        typer.Option(
            "--answer",
            envvar="P2PNET_ANSWER",
            metavar="FILE",
            help="The text of the answer: is it what was signed? Of several answers, each in order. With --model, "
            "where the tokens are not quite the same: by how much they differ.",
        ),
    ] = [],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            envvar="P2PNET_MODEL",
            metavar="MODEL",
            help="Compute the answer again with this model: tiny (bundled), a folder in Hugging Face format, or a hub "
            "id. The document must have the requests in it.",
        ),
    ] = None,
    device: options.DeviceOption = options.Device.auto,
    dtype: options.DtypeOption = options.Dtype.auto,
    quantization: options.QuantizationOption = WantedQuantization.none,
    log_level: options.LogLevelOption = options.LogLevel.warning,
) -> None:
    """Check receipts: who has signed, whether an answer is the one that was signed, and what the model says itself."""
    from p2pnet.cli import logs
    from p2pnet.config import ModelConfig
    from p2pnet.receipts.checking import check_texts, checked, read_acknowledgements
    from p2pnet.receipts.document import read_document

    logs.configure(log_level, is_json=False)
    raw = _read(receipt)
    if not raw.lstrip().startswith(b"{"):
        typer.echo("\n".join([*given_to(read_acknowledgements(raw)), ACKNOWLEDGED]))
        return
    parts = checked(read_document(raw))
    for part in parts:
        typer.echo(described(part))
    shown = SIGNED
    if answer:
        check_texts(parts, [_read(path) for path in answer])
        shown = TEXT
    if model is not None:
        if any(part.request is None for part in parts):
            raise UsageError(
                "The requests are not in this document, so that nothing can be computed again.",
                "Fetch it from the gateway: /p2pnet/v1/receipts/ID, while it is kept there.",
            )
        config = ModelConfig({model: parts[0].receipt.model}, device, dtype, quantization)
        import_module("p2pnet.cli.loading")  # seconds: Ctrl-C ends them at once here, and not in the event loop
        texts = [_read(path).decode(errors="replace") for path in answer]
        near = asyncio.run(_compute_again(model, config, parts, texts))
        for line in near:
            typer.echo(line)
        shown = NEARLY if near else COMPUTED
    typer.echo(shown)


def given_to(signed: Sequence[Acknowledgement]) -> list[str]:
    """What each worker gave to each gateway that has signed, most tokens first."""
    sums: dict[tuple[str, str], list[int]] = {}
    for said in signed:
        sums.setdefault((said.worker, said.gateway), []).append(said.tokens)
    ranked = sorted(sums.items(), key=lambda item: -sum(item[1]))
    return [
        f"worker  {worker}\ngateway {gateway}\ngave    {len(tokens):,} answers, {sum(tokens):,} tokens"
        for (worker, gateway), tokens in ranked
    ]


def described(part: Checked) -> str:
    """What the worker says, in lines for people. Times are by its own clock."""
    receipt = part.receipt
    took_s = (receipt.ended_ms - receipt.began_ms) / 1000
    sampler = f", sampler {receipt.sampler}" if receipt.sampler else ""
    return "\n".join(
        (
            f"worker  {receipt.worker}",
            f"gateway {receipt.gateway}",
            f"model   {receipt.model}, {receipt.digest or 'of no digest'}",
            f"answer  {receipt.tokens} tokens to {receipt.prompt_tokens} of the prompt, {receipt.reason}, "
            f"seed {receipt.seed}{sampler}",
            f"time    {took_s:.1f} s, to {_moment(receipt.ended_ms)} by the worker's clock",
        )
    )


def _moment(unix_ms: int) -> str:
    """A stranger's clock may say anything."""
    try:
        return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "no time that there is"


async def _compute_again(model: str, config: ModelConfig, parts: Sequence[Checked], texts: Sequence[str]) -> list[str]:
    """What there is to say of parts whose tokens are not quite those that this model gives. `texts` are of each part,
    where they were given. Raises UsageError where this model is not the one of the receipts, or gives other tokens."""
    from p2pnet.cli.loading import load_generator
    from p2pnet.worker.backends.engine_backend import EngineOptions

    backend = await load_generator(model, config, EngineOptions(slots=1))
    of_each = texts if len(texts) == len(parts) else [None] * len(parts)
    try:
        said = [
            await check_computation(backend, number, part, text)
            for number, (part, text) in enumerate(zip(parts, of_each, strict=True), 1)
        ]
    finally:
        await backend.close()
    return [line for line in said if line is not None]


async def check_computation(backend: Backend, number: int, part: Checked, text: str | None = None) -> str | None:
    """Have a backend answer the request of a part again. Returns what there is to say where its tokens are not quite
    the same, which only a `text` shows. Raises UsageError where it differs."""
    import msgspec

    from p2pnet.messages import TextDelta
    from p2pnet.receipts.hashing import AnswerHash

    (card,) = backend.models
    receipt, request = part.receipt, part.request
    assert request is not None
    if card.digest != receipt.digest:
        raise UsageError(
            f"Receipt {number} is of another model: {receipt.digest}, and this one is {card.digest}.",
            "Give the same files, and --dtype and --quantization as the worker had them.",
        )
    if receipt.sampler and card.sampler != receipt.sampler:
        raise UsageError(
            f"Receipt {number} is of tokens chosen by {receipt.sampler}, and here they are chosen by {card.sampler}.",
            "Use the version of p2pnet that the worker had.",
        )
    is_broken_off = receipt.reason == "failed"
    if is_broken_off and request.n > 1:
        raise UsageError(
            f"Receipt {number} is of several answers that were broken off, each somewhere else.",
            "Leave --model out: where each of them ended is not told.",
        )
    request = msgspec.structs.replace(request, model=card.id)
    if is_broken_off:
        request = msgspec.structs.replace(request, max_tokens=len(request.resume_tokens) + receipt.tokens)
    answer = AnswerHash(request.n)
    async for event in backend.generate(request):
        if isinstance(event, TextDelta):
            answer.note(event)
    has_other_text = answer.text_hash != receipt.text_hash and not is_broken_off  # it may have held some of it back
    if answer.ids_hash == receipt.ids_hash and not has_other_text:
        return None
    if text is not None and not is_broken_off and request.n == 1:
        return await _compare_margins(backend, number, request, receipt, text)
    raise UsageError(
        f"The model gives other tokens than receipt {number} is of.",
        "That alone is no proof of a lie: other hardware rounds otherwise, and now and then a token follows. Give the "
        "answer's text with --answer to see by how much they differ, or try another machine.",
    )


async def _compare_margins(backend: Backend, number: int, request: GenerateRequest, receipt: Receipt, text: str) -> str:
    """Says by how much other tokens are likelier here. Raises UsageError where that is too much, or not known."""
    import msgspec

    from p2pnet.cli.near_misses import MAX_MEAN_MARGIN, margins
    from p2pnet.worker.backend import ScoreBackend

    (card,) = backend.models
    request = msgspec.structs.replace(request, digest=card.digest, sampler=card.sampler)
    found = None
    if isinstance(backend, ScoreBackend):
        for each in dict.fromkeys((text, text.removesuffix("\n"))):
            found = found or await margins(backend, request, receipt, each)
    if not found:
        raise UsageError(
            f"The model gives other tokens than receipt {number} is of, and the text does not tell which they were.",
            "That alone is no proof of a lie: other hardware rounds otherwise, and now and then a token follows. Try "
            "another machine.",
        )
    others = sum(margin > 0 for margin in found)
    mean = sum(found) / len(found)
    says = f"receipt {number}: of {len(found)} tokens the model gives {others} otherwise, by {mean:.4f} on average"
    if mean > MAX_MEAN_MARGIN:
        raise UsageError(
            f"These are not the model's tokens, {says}, and {max(found):.4f} at most.",
            "Rounding does not do that: it was another model, other weights, another prompt or another seed.",
        )
    return f"{says}, {max(found):.4f} at most"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Name another file.") from error
