"""An answer goes on after a text that somebody else has said: where the two meet, nothing is lost or said twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest, P2PNetError
from p2pnet.messages import ChatPrompt, GenerateRequest, Message, Prompt, Sampling, TextPrompt, TokenPrompt, Tool
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.text.detokenizer import Detokenizer, invisible_ids
from p2pnet.worker.text.resuming import encodings
from tests.checkpoints import CHAT_TEMPLATE, byte_fallback_tokenizer, byte_level_tokenizer
from tests.worker.answers import Models, answer, serve

NAMES = ("tiny", "llama", "qwen2", "gemma")
TEXT = TextPrompt("The quick brown")
HELLO = ChatPrompt((Message("user", "Hello"),))
TOOL_TEMPLATE = '{% if tools %}{{ tools[0].function.name }} {{ tools[0].function.description }} <tool_call>\n{"name": '
TOOL_TEMPLATE += '<name>, "arguments": <arguments>}\n</tool_call>{% endif %}' + CHAT_TEMPLATE
TIME = Tool("get_time", "", '{"type": "object", "properties": {}, "additionalProperties": false}')
WITH_TOOL = ChatPrompt(HELLO.messages, (TIME,))
SCHEMA = (
    '{"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "string", "maxLength": 5}}, '
    '"required": ["a", "b"], "additionalProperties": false}'
)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(params=NAMES)
def loaded(models: Models, request: pytest.FixtureRequest) -> LoadedModel:
    loaded = models(request.param)
    loaded.tokenizer.chat_template = TOOL_TEMPLATE
    return loaded


@pytest.fixture
async def backend(loaded: LoadedModel) -> AsyncIterator[TransformersBackend]:
    backend = serve(loaded)
    yield backend
    await backend.close()


def ask(text: str, prompt: Prompt = TEXT, **fields: Any) -> GenerateRequest:
    return GenerateRequest("r", "m", prompt, **{"max_tokens": 8, "resume_text": text, **fields})


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level_tokenizer,
    "byte fallback, strips a space": byte_fallback_tokenizer,
    "byte fallback": lambda: byte_fallback_tokenizer(False),
}
SAID = [
    "Once upon  a time,\n\nthere was",
    " a space before",
    "\n- one\n- two",
    "語é🙂 ça va",
    "broken \N{REPLACEMENT CHARACTER} bytes",
    "def add(a, b):\n    return a",
]


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_ids_say_the_text_wherever_it_was_cut(make: Callable[[], Any]) -> None:
    """At the beginning of an answer to a chat, and after a prompt that is continued."""
    tokenizer = make()
    invisible = invisible_ids(tokenizer)
    prompt = tuple(tokenizer("The quick brown")["input_ids"])
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    for said in SAID:
        for text in (said[:end] for end in range(1, len(said) + 1)):
            at_start = list(encodings(text, tokenizer, Detokenizer(tokenizer, invisible)))
            after = list(encodings(text, tokenizer, Detokenizer(tokenizer, invisible, prompt)))
            assert at_start and after, text
            for ids in at_start:
                assert tokenizer.decode(ids, skip_special_tokens=True) == text
            for ids in after:
                assert tokenizer.decode([*prompt, *ids], skip_special_tokens=True) == before + text


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_the_name_of_a_control_token_does_not_become_one(make: Callable[[], Any]) -> None:
    tokenizer = make()
    for text in ("<eos>", "a <|user|> b"):
        assert list(encodings(text, tokenizer, Detokenizer(tokenizer, invisible_ids(tokenizer)))) == []


PROMPTS: list[Prompt] = [TEXT, TokenPrompt((70, 71, 72)), HELLO]


@pytest.mark.parametrize("prompt", PROMPTS, ids=["text", "ids", "chat"])
async def test_what_follows_fits_on(loaded: LoadedModel, backend: TransformersBackend, prompt: Prompt) -> None:
    """All ids together, decoded at once, are the text that was given and what came. Without single bytes: of those that
    are no character, decoding at once makes less than was sent."""
    single = {token_id: -100.0 for name, token_id in loaded.tokenizer.get_vocab().items() if name.startswith("<0x")}
    tokenizer = loaded.tokenizer
    context: tuple[int, ...] = ()
    if isinstance(prompt, TextPrompt):
        context = tuple(tokenizer(prompt.text)["input_ids"])
    elif isinstance(prompt, TokenPrompt):
        context = prompt.token_ids
    before = tokenizer.decode(context, skip_special_tokens=True)
    plain = await answer(backend, ask("", prompt))
    for text in ("Once upon a ti", "me, there was ", " a small", "ça\n"):
        ids = next(encodings(text, tokenizer, Detokenizer(tokenizer, invisible_ids(tokenizer), context)))
        for seed in range(3):
            sampling = Sampling(seed=seed, logit_bias=single)
            found = await answer(backend, ask(text, prompt, sampling=sampling, ignore_eos=True))
            rest = found.choices[0]
            whole = tokenizer.decode([*context, *ids, *rest.ids], skip_special_tokens=True)
            assert before + text + rest.text == whole
            assert found.reasons == ("length",)
            assert found.usage.completion_tokens == len(rest.ids) == 8
            assert found.usage.prompt_tokens == plain.usage.prompt_tokens + len(ids)


async def test_a_text_and_its_tokens_go_on_alike(loaded: LoadedModel, backend: TransformersBackend) -> None:
    """Same ids, same numbers: penalties and random numbers count what was said."""
    text = " fox jumps over the lazy"
    context = tuple(loaded.tokenizer(TEXT.text)["input_ids"])
    ids = next(
        encodings(text, loaded.tokenizer, Detokenizer(loaded.tokenizer, invisible_ids(loaded.tokenizer), context))
    )
    sampling = Sampling(seed=4, presence_penalty=1.0, repetition_penalty=1.2)
    fields: dict[str, Any] = {"sampling": sampling, "ignore_eos": True, "logprobs": 1}
    by_text = await answer(backend, ask(text, **fields))
    by_ids = await answer(backend, ask("", resume_tokens=ids, **{**fields, "max_tokens": 8 + len(ids)}))
    assert by_text.choices[0].ids == by_ids.choices[0].ids
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert [entry.token_id for entry in by_text.choices[0].logprobs] == list(by_text.choices[0].ids)


async def test_limits_are_of_what_is_still_to_come(loaded: LoadedModel, backend: TransformersBackend) -> None:
    end = min(loaded.end_token_ids)
    eager = Sampling(temperature=0, logit_bias={end: 100})
    cases: list[tuple[dict[str, Any], int, str, int]] = [
        ({"max_tokens": 3, "ignore_eos": True}, 3, "length", 3),
        ({"sampling": eager}, 0, "stop", 1),
        ({"sampling": eager, "min_tokens": 2}, 2, "stop", 3),
    ]
    for fields, ids, reason, counted in cases:
        found = await answer(backend, ask(" fox jumps over the lazy dog", **fields))
        assert (len(found.choices[0].ids), found.reasons[0], found.usage.completion_tokens) == (ids, reason, counted)


async def test_a_stop_string_may_begin_in_the_text(backend: TransformersBackend) -> None:
    sampling = Sampling(temperature=0)
    plain = (await answer(backend, ask(" fox S", sampling=sampling, ignore_eos=True))).choices[0].text
    stop = "S" + plain[:2]
    found = await answer(backend, ask(" fox S", sampling=sampling, ignore_eos=True, stop=(stop,)))
    assert (found.choices[0].text, found.reasons) == ("", ("stop",))


async def test_a_form_is_filled_in_from_wherever_it_was_left(backend: TransformersBackend) -> None:
    whole = '{"a":"x","b":"hey"}'
    schema = JsonSchemaFormat(SCHEMA)
    for end in range(1, len(whole) + 1):
        asked = ask(whole[:end], (TEXT, HELLO)[end % 2], response_format=schema, sampling=Sampling(seed=end))
        found = await answer(backend, msgspec.structs.replace(asked, max_tokens=200))
        value = json.loads(whole[:end] + found.choices[0].text)
        assert found.reasons == ("stop",)
        assert value["a"] in ("x", "y") and len(value["b"]) <= 5
    assert found.choices[0].text == "", "it was complete"


CALL = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
REFUSED: dict[str, tuple[GenerateRequest, type[P2PNetError]]] = {
    "another form": (ask("No.", response_format=JsonFormat()), FeatureMissing),
    "another schema": (ask('{"c"', response_format=JsonSchemaFormat(SCHEMA)), FeatureMissing),
    "text where a call is required": (
        ask("Sure", ChatPrompt(HELLO.messages, (TIME,), "required")),
        FeatureMissing,
    ),
    "a call": (ask(f"Sure.\n{CALL}", WITH_TOOL), FeatureMissing),
    "tokens and a text": (ask("a", resume_tokens=(5,)), InvalidRequest),
    "several answers": (ask("a", n=2), InvalidRequest),
    "an echo": (ask("a", echo=True), InvalidRequest),
    "a megabyte": (ask("a" * (1 << 20)), InvalidRequest),
    "more than the context": (ask("the dog, " * 2000), ContextOverflow),
    "no room left": (ask("a", max_tokens=100_000), ContextOverflow),
    "a schema that is none": (ask("a", response_format=JsonSchemaFormat("{]")), InvalidRequest),
    "more tokens than may be": (ask("", resume_tokens=(5,) * 9), InvalidRequest),
    "more tokens than the context holds": (ask("", resume_tokens=(5,) * 100_000, max_tokens=None), InvalidRequest),
    "ids that are none": (ask("", resume_tokens=(1 << 30,)), InvalidRequest),
}


@pytest.mark.parametrize(("asked", "error"), REFUSED.values(), ids=REFUSED)
async def test_refused(models: Models, asked: GenerateRequest, error: type[P2PNetError]) -> None:
    loaded = models("qwen2")
    loaded.tokenizer.chat_template = TOOL_TEMPLATE
    backend = serve(loaded)
    with pytest.raises(error) as refused:
        await anext(backend.generate(asked))
    if error is FeatureMissing:
        assert getattr(refused.value, "param", None) == "resume_text"
    await backend.close()


async def test_text_before_a_call_is_no_call(backend: TransformersBackend) -> None:
    for text in ("Sure, I look.\n", "a <b> c <"):
        found = await answer(backend, ask(text, WITH_TOOL, ignore_eos=True))
        assert len(found.choices[0].ids) == 8


async def test_a_long_resumption_is_bounded_by_its_field(tmp_path: Path) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(ask("a" * (1 << 20))), type=GenerateRequest)
