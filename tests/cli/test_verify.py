"""`p2pnet verify`: what it says that was shown, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import msgspec
import pytest

from p2pnet.cli.loading import load_generator
from p2pnet.cli.verify import ACKNOWLEDGED, COMPUTED, SIGNED, TEXT, check_computation, described, verify
from p2pnet.config import ModelConfig
from p2pnet.errors import UsageError
from p2pnet.messages import Accepted, Failed, Sampling, TextDelta
from p2pnet.receipts.checking import checked
from p2pnet.receipts.document import ReceiptDocument
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.receipts.statement import seal_statement
from p2pnet.worker.backends.synthetic.echo import ECHO_DIGEST, EchoBackend
from p2pnet.worker.backends.transformers import EngineOptions
from tests.receipts.documents import answered, part_of
from tests.stories import ask, peer

SEED = 54
"""With this one bfloat16 gives another token at one place."""
DTYPES = ("bfloat16", "float32")
PEERS = (peer("gateway").peer_id, peer("worker").peer_id)


@pytest.fixture
async def document() -> ReceiptDocument:
    return await answered(EchoBackend(), ask())


def saved(document: ReceiptDocument, folder: Path) -> Path:
    path = folder / "receipt.json"
    path.write_bytes(document.to_json())
    return path


def test_a_signature_is_said_to_be_no_more_than_that(
    document: ReceiptDocument, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(saved(document.without_requests(), tmp_path))
    said = capsys.readouterr().out
    assert peer("worker").peer_id in said and peer("gateway").peer_id in said
    assert said.endswith(f"{SIGNED}\n")


def test_a_text_is_compared(document: ReceiptDocument, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = tmp_path / "answer.txt"
    answer.write_text("one two three\n")
    verify(saved(document, tmp_path), [answer])
    assert capsys.readouterr().out.endswith(f"{TEXT}\n")
    answer.write_text("one two four\n")
    with pytest.raises(UsageError, match="not the one"):
        verify(saved(document, tmp_path), [answer])


def test_what_gateways_have_signed_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [Acknowledgement(*PEERS, bytes([number]) * 32, bytes(32), "tiny", "received", 0, 5) for number in range(3)]
    lines = [base64.b64encode(seal_statement(each, peer("gateway"))) for each in said]
    path = tmp_path / "signed.txt"
    path.write_bytes(b"\n".join([*lines, lines[0]]))
    verify(path)
    said_of_it = capsys.readouterr().out
    assert "3 answers, 15 tokens" in said_of_it and said_of_it.endswith(f"{ACKNOWLEDGED}\n")


@pytest.mark.parametrize("line", [b"", b"garbage", base64.b64encode(b"garbage"), b"\xff"])
def test_a_line_that_nobody_signed_is_named(line: bytes, tmp_path: Path) -> None:
    said = Acknowledgement(*PEERS, bytes(32), bytes(32), "tiny", "received", 0, 5)
    path = tmp_path / "signed.txt"
    path.write_bytes(base64.b64encode(seal_statement(said, peer("gateway"))) + b"\n" + line + b"\n")
    with pytest.raises(UsageError, match="Line 2"):
        verify(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        verify(tmp_path / "none.json")


async def test_a_part_is_computed_again(document: ReceiptDocument) -> None:
    [part] = checked(document)
    await check_computation(EchoBackend(), 1, part)


async def test_other_tokens_and_other_weights_are_told_apart(document: ReceiptDocument) -> None:
    [part] = checked(document)
    changed = msgspec.structs.replace(part.receipt, ids_hash=bytes(32))
    with pytest.raises(UsageError, match="other tokens"):
        await check_computation(EchoBackend(), 1, type(part)(changed, part.request))
    foreign = msgspec.structs.replace(part.receipt, digest="sha256:" + "0" * 64)
    with pytest.raises(UsageError, match="another model"):
        await check_computation(EchoBackend(), 1, type(part)(foreign, part.request))


async def test_a_part_that_was_broken_off_is_computed_as_far_as_it_goes() -> None:
    events = [Accepted(3, ECHO_DIGEST), TextDelta("one", (0,)), TextDelta(" two", (1,)), Failed("worker_failed")]
    [part] = checked(ReceiptDocument("receipt-1", (part_of(ask(), events),)))
    await check_computation(EchoBackend(), 1, part)
    [several] = checked(ReceiptDocument("receipt-1", (part_of(ask(n=2), events),)))
    with pytest.raises(UsageError, match="several answers"):
        await check_computation(EchoBackend(), 1, several)


def test_nothing_can_be_computed_without_the_request(document: ReceiptDocument, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="requests are not in this document"):
        verify(saved(document.without_requests(), tmp_path), model="tiny")


def test_a_time_that_is_none_breaks_nothing(document: ReceiptDocument) -> None:
    [part] = checked(document)
    late = msgspec.structs.replace(part.receipt, ended_ms=(1 << 53) - 1)
    assert "no time that there is" in described(type(part)(late, None))


async def test_the_bundled_model_gives_the_same_tokens_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = await load_generator("tiny", ModelConfig(), EngineOptions(slots=1))
    try:
        given = await answered(backend, ask("tiny", max_tokens=8), ask("tiny", resume_tokens=(5, 6), max_tokens=8))
    finally:
        await backend.close()
    await asyncio.to_thread(verify, saved(given, tmp_path), [], "tiny")
    assert capsys.readouterr().out.endswith(f"{COMPUTED}\n")


async def test_tokens_that_rounding_changed_are_told_from_those_of_another_seed() -> None:
    """Given an answer in bfloat16 under the digest of float32, as other hardware rounds, and one of another seed."""
    request = ask("tiny", "A worker is", max_tokens=60, sampling=Sampling(seed=SEED))
    other = msgspec.structs.replace(request, sampling=Sampling(seed=SEED + 1, temperature=0.3))
    rounds, exact = [await load_generator("tiny", ModelConfig(dtype=dtype), EngineOptions(slots=1)) for dtype in DTYPES]
    (card,) = exact.models
    try:
        for asked, is_near in ((request, True), (other, False)):
            events = [event async for event in rounds.generate(asked)]
            assert isinstance(events[0], Accepted)
            text = "".join(event.text for event in events if isinstance(event, TextDelta))
            signed = part_of(request, [msgspec.structs.replace(events[0], digest=card.digest), *events[1:]])
            [part] = checked(ReceiptDocument("receipt-1", (signed,)))
            with pytest.raises(UsageError, match="other tokens"):
                await check_computation(exact, 1, part)
            with pytest.raises(UsageError, match="does not tell"):
                await check_computation(exact, 1, part, "not what it said")
            if is_near:
                said = await check_computation(exact, 1, part, text + "\n")
                assert said is not None and said.startswith("receipt 1: of 41 tokens the model gives 1 otherwise")
            else:
                with pytest.raises(UsageError, match="not the model's tokens"):
                    await check_computation(exact, 1, part, text)
    finally:
        await rounds.close()
        await exact.close()
