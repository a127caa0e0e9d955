"""Fill-in-the-middle: how each family's tokenizer marks a gap, and what the engine makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import torch

from p2pnet.errors import FeatureMissing, InvalidRequest
from p2pnet.features import FIM, TEXT
from p2pnet.messages import GenerateRequest, Prompt, Sampling, TextPrompt, TokenPrompt
from p2pnet.records import ModelCard
from p2pnet.worker.backends.synthetic.echo import EchoBackend
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.backends.upstream.dialect import Offer
from p2pnet.worker.backends.upstream.ollama.dialect import OllamaDialect
from p2pnet.worker.backends.upstream.ollama.models import Shown, Tag, offer_of
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.text.fim import find_fim
from tests.checkpoints import byte_fallback_tokenizer, byte_level_tokenizer
from tests.worker.answers import Models, answer, serve

BEFORE, AFTER = "def add(first, second):\n    return", "second\n"
GAP = TextPrompt(BEFORE, AFTER)

FAMILIES = [
    (byte_level_tokenizer, ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "<|file_sep|>"),
    (byte_level_tokenizer, ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "<file_sep>"),
    (byte_level_tokenizer, ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"), "<|endoftext|>"),
    (byte_level_tokenizer, ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), None),
    (byte_fallback_tokenizer, ("▁<PRE>", "▁<SUF>", "▁<MID>"), "▁<EOT>"),
    (
        lambda: byte_fallback_tokenizer(False),
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        "<|file_separator|>",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def with_tokens(tokenizer: Any, *tokens: str) -> Any:
    """Added as Qwen adds them: not as control tokens."""
    tokenizer.add_tokens(list(tokens))
    return tokenizer


@pytest.mark.parametrize(("make", "marks", "end"), FAMILIES, ids=[case[1][0] for case in FAMILIES])
def test_a_gap_is_marked_as_the_family_marks_it(
    make: Callable[[], Any], marks: tuple[str, ...], end: str | None
) -> None:
    tokenizer = with_tokens(make(), *marks, *([end] if end else []))
    fim = find_fim(tokenizer)
    assert fim is not None
    gap = fim.encode(BEFORE, AFTER)
    opening = tokenizer("")["input_ids"]
    first, second, third = (gap.ids.index(tokenizer.convert_tokens_to_ids(mark)) for mark in marks)
    assert list(gap.ids[:first]) == opening
    assert gap.ids[first + 1 : second] == gap.before_ids
    assert tokenizer.decode(gap.before_ids) == BEFORE
    assert tokenizer.decode([*gap.before_ids, *gap.ids[second + 1 : third]]) == BEFORE + AFTER
    assert third == len(gap.ids) - 1
    assert fim.end_token_ids == ({tokenizer.convert_tokens_to_ids(end)} if end else frozenset())


@pytest.mark.parametrize("make", [byte_level_tokenizer, byte_fallback_tokenizer])
def test_most_tokenizers_know_no_gaps(make: Callable[[], Any]) -> None:
    assert find_fim(make()) is None
    assert find_fim(with_tokens(make(), "<fim_prefix>", "<fim_suffix>")) is None


@pytest.mark.parametrize(
    ("before", "after", "param"), [("a<fim_middle>b", "c", "prompt"), ("a", "<fim_prefix>", "suffix")]
)
def test_a_text_does_not_move_its_own_gap(before: str, after: str, param: str) -> None:
    fim = find_fim(with_tokens(byte_level_tokenizer(), "<fim_prefix>", "<fim_suffix>", "<fim_middle>"))
    assert fim is not None
    with pytest.raises(InvalidRequest) as refused:
        fim.encode(before, after)
    assert refused.value.param == param


@pytest.mark.parametrize("text", ["", "\n\n", " ", "é", "日本"])
def test_any_text_stands_after_a_gap_as_it_is(text: str) -> None:
    for make in (byte_level_tokenizer, byte_fallback_tokenizer, lambda: byte_fallback_tokenizer(False)):
        tokenizer = with_tokens(make(), "<fim_prefix>", "<fim_suffix>", "<fim_middle>")
        fim = find_fim(tokenizer)
        assert fim is not None
        gap = fim.encode("x", text)
        after = gap.ids[gap.ids.index(tokenizer.convert_tokens_to_ids("<fim_suffix>")) + 1 : -1]
        assert tokenizer.decode([*gap.before_ids, *after]) == "x" + text


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(params=["qwen2", "llama"])
def loaded(models: Models, request: pytest.FixtureRequest) -> LoadedModel:
    loaded = models(request.param)
    with_tokens(loaded.tokenizer, "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>")
    return loaded


@pytest.fixture
async def backend(loaded: LoadedModel) -> AsyncIterator[TransformersBackend]:
    backend = serve(loaded)
    yield backend
    await backend.close()


def ask(prompt: Prompt = GAP, **fields: Any) -> GenerateRequest:
    return GenerateRequest("r", "m", prompt, **{"max_tokens": 8, "sampling": Sampling(seed=14), **fields})


async def test_the_engine_goes_on_after_the_marks(backend: TransformersBackend, loaded: LoadedModel) -> None:
    fim = find_fim(loaded.tokenizer)
    assert fim is not None
    gap = fim.encode(BEFORE, AFTER)
    assert FIM in backend.models[0].features
    filled = await answer(backend, ask())
    by_ids = await answer(backend, ask(TokenPrompt(gap.ids)))
    (choice,) = filled.choices
    assert choice.ids == by_ids.choices[0].ids
    assert filled.usage.prompt_tokens == len(gap.ids)
    assert BEFORE + choice.text == loaded.tokenizer.decode([*gap.before_ids, *choice.ids])


async def test_what_ends_a_middle_ends_no_other_text(backend: TransformersBackend, loaded: LoadedModel) -> None:
    forced = Sampling(seed=3, logit_bias={loaded.tokenizer.convert_tokens_to_ids("<file_sep>"): 100.0})
    middle = await answer(backend, ask(sampling=forced))
    other = await answer(backend, ask(TextPrompt(BEFORE), sampling=forced))
    assert (middle.choices[0].text, middle.reasons) == ("", ("stop",))
    assert other.reasons == ("length",)


async def test_a_middle_is_gone_on_with_elsewhere(backend: TransformersBackend) -> None:
    (whole,) = (await answer(backend, ask())).choices
    first = whole.clean[2][0]
    (rest,) = (await answer(backend, ask(resume_tokens=whole.ids[:first]))).choices
    assert whole.ids == (*whole.ids[:first], *rest.ids)
    assert whole.text.endswith(rest.text)


async def test_the_echo_of_a_gap_is_refused(backend: TransformersBackend) -> None:
    with pytest.raises(InvalidRequest, match="two parts"):
        await answer(backend, ask(echo=True))


async def test_a_backend_that_fills_no_gaps_says_so() -> None:
    with pytest.raises(FeatureMissing) as missing:
        [event async for event in EchoBackend().generate(GenerateRequest("r", "echo", GAP))]
    assert missing.value.param == "suffix"


def test_ollama_fills_gaps_where_its_template_does() -> None:
    plain, coder = (
        offer_of(Tag("m"), Shown(capabilities=["completion", *more]), None, (0, 20, 0)) for more in ([], ["insert"])
    )
    assert plain is not None and coder is not None
    assert FIM not in plain.card.features
    assert OllamaDialect().call(ask(), coder).body.keys() >= {"prompt", "suffix"}
    body = OllamaDialect().call(ask(), coder).body
    assert (body["prompt"], body["suffix"], "raw" in body) == (BEFORE, AFTER, False)
    with pytest.raises(FeatureMissing):
        OllamaDialect().call(ask(), plain)


def test_ollama_goes_on_with_a_middle() -> None:
    features = frozenset({TEXT, FIM, "resume_text"})
    offer = Offer(ModelCard("m", "sha256:" + "0" * 64, 512), text=features)
    body = OllamaDialect().call(msgspec.structs.replace(ask(), resume_text=" first"), offer).body
    assert (body["prompt"], body["suffix"]) == (BEFORE + " first", AFTER)
