"""Features: what each field of a request needs of a backend, and which lack is named."""

from __future__ import annotations

import msgspec
import pytest

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat, RegexFormat
from p2pnet.errors import FeatureMissing
from p2pnet.features import ENGINE, check_features, features_needed
from p2pnet.messages import ChatPrompt, GenerateRequest, ImagePart, Message, Sampling, TextPrompt, TokenPrompt, Tool
from p2pnet.records import ModelCard
from tests.stories import DIGEST, ask

CHAT = ChatPrompt((Message("user", "Hi"),))
WITH_TOOLS = msgspec.structs.replace(CHAT, tools=(Tool("now"),))


def sampled(**fields: float) -> GenerateRequest:
    return ask(sampling=Sampling(**fields))  # type: ignore[arg-type]


def prompted(prompt: ChatPrompt | TextPrompt | TokenPrompt) -> GenerateRequest:
    return msgspec.structs.replace(ask(), prompt=prompt)


NEEDED: dict[str, tuple[GenerateRequest, set[str]]] = {
    "plain text": (ask(), set()),
    "what every backend does": (
        ask(max_tokens=3, stop=("x",), digest=DIGEST, sampling=Sampling(seed=1, temperature=0, top_p=0.5)),
        set(),
    ),
    "a chat": (prompted(CHAT), {"chat"}),
    "tools": (prompted(WITH_TOOLS), {"chat", "tools"}),
    "an image": (prompted(ChatPrompt((Message("user", "", images=(ImagePart(b"a"),)),))), {"chat", "images"}),
    "token ids": (prompted(TokenPrompt((1,))), {"tokens"}),
    "stop tokens": (ask(stop_token_ids=(1,)), {"tokens"}),
    "top_k": (sampled(top_k=5), {"sampling"}),
    "min_p": (sampled(min_p=0.1), {"sampling"}),
    "repetition_penalty": (sampled(repetition_penalty=1.1), {"sampling"}),
    "presence_penalty": (sampled(presence_penalty=-0.5), {"penalties"}),
    "frequency_penalty": (sampled(frequency_penalty=0.5), {"penalties"}),
    "logit_bias": (ask(sampling=Sampling(logit_bias={5: 1.0})), {"logit_bias"}),
    "logprobs": (ask(logprobs=0), {"logprobs"}),
    "several answers": (ask(n=2), {"n"}),
    "an echo": (ask(echo=True), {"echo"}),
    "no end": (ask(ignore_eos=True), {"ignore_eos"}),
    "min_tokens": (ask(min_tokens=1), {"min_tokens"}),
    "json": (ask(response_format=JsonFormat()), {"json"}),
    "a schema": (ask(response_format=JsonSchemaFormat("{}")), {"json_schema"}),
    "a regular expression": (ask(response_format=RegexFormat("a+")), {"regex"}),
    "going on": (ask(resume_tokens=(1,)), {"resume"}),
    "scoring what it goes on after": (ask(resume_tokens=(1,), score_resume=True), {"resume", "score"}),
    "going on after a text": (ask(resume_text="a"), {"resume_text"}),
}
"""Beside `text`, which all but the other prompts need."""


def needs(request: GenerateRequest, extra: set[str]) -> set[str]:
    return extra | ({"text"} if isinstance(request.prompt, TextPrompt) else set())


@pytest.mark.parametrize(("request_", "extra"), NEEDED.values(), ids=NEEDED)
def test_features_needed(request_: GenerateRequest, extra: set[str]) -> None:
    assert features_needed(request_) == needs(request_, extra)


@pytest.mark.parametrize(("request_", "extra"), NEEDED.values(), ids=NEEDED)
def test_whoever_has_them_passes_and_whoever_lacks_one_is_told_which(
    request_: GenerateRequest, extra: set[str]
) -> None:
    needed = needs(request_, extra)
    check_features(request_, needed)
    for lacking in needed:
        with pytest.raises(FeatureMissing, match=lacking) as caught:
            check_features(request_, needed - {lacking})
        assert caught.value.param is not None
        assert caught.value.may_retry


PARAMS = {
    "chat": (prompted(CHAT), "messages"),
    "text": (ask(), "prompt"),
    "tokens": (prompted(TokenPrompt((1,))), "prompt"),
    "sampling": (sampled(top_k=5), "top_k"),
    "n": (ask(n=2), "n"),
    "json_schema": (ask(response_format=JsonSchemaFormat("{}")), "response_format"),
    "regex": (ask(response_format=RegexFormat("a+")), "response_format"),
    "resume": (ask(resume_tokens=(1,)), "resume_tokens"),
    "resume_text": (ask(resume_text="a"), "resume_text"),
}


@pytest.mark.parametrize(("lacking", "request_", "param"), [(name, *case) for name, case in PARAMS.items()], ids=PARAMS)
def test_the_field_that_is_at_fault_is_named(lacking: str, request_: GenerateRequest, param: str) -> None:
    with pytest.raises(FeatureMissing) as caught:
        check_features(request_, features_needed(request_) - {lacking})
    assert caught.value.param == param


def test_what_is_missing_is_a_sentence_and_a_fix() -> None:
    with pytest.raises(FeatureMissing) as caught:
        check_features(ask(n=2), features_needed(ask(n=2)) - {"n"})
    assert caught.value.message == (
        "The model echo cannot give several answers to one prompt here (n): ask without n, or ask another model."
    )
    with pytest.raises(FeatureMissing) as caught:
        check_features(NEEDED["an image"][0], {"chat"})
    assert caught.value.message == (
        "The model echo cannot read images here (images): ask without images, or ask another model."
    )


def test_all_that_the_engine_does_fits_a_card() -> None:
    card = ModelCard("tiny", DIGEST, 1, features=(*ENGINE, "chat", "tools"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(card), type=ModelCard) == card
