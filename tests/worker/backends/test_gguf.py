"""A GGUF file in our own engine: llama.cpp's own answers, and all that the engine adds to them."""

from __future__ import annotations

import asyncio
import ctypes
import json
import math
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import msgspec
import numpy as np
import pytest

from p2pnet.answer_forms import JsonSchemaFormat, RegexFormat
from p2pnet.errors import ContextOverflow, InvalidRequest, UsageError
from p2pnet.features import CHAT, IMAGES, JSON_SCHEMA, LOGPROBS, RESUME
from p2pnet.messages import ChatPrompt, Message, Sampling, TextDelta, TokenPrompt
from p2pnet.score_messages import MAX_MARGIN, ScoreRequest
from p2pnet.worker.backends.engine_backend import EngineOptions, Idling
from p2pnet.worker.backends.gguf import GgufBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.gguf.loading import load_gguf
from p2pnet.worker.gguf.model import LlamaModel
from tests.checkpoints import CONTEXT_LENGTH, build_checkpoint
from tests.depth import scaled
from tests.gguf_files import real_gguf, small_gguf
from tests.stories import settle
from tests.worker.answers import answer, ask
from tests.worker.engine.test_scored_text import text_margin
from tests.worker.engine.test_scoring import scored
from tests.worker.timers import ManualTimers

KV_TOKENS = 4096
GREEDY = Sampling(temperature=0)
PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "def add(first, second):",
    "Der schnelle braune Fuchs",
    "1, 2, 3, 4, 5,",
    "ça va très bien,",
    "The dog does not mind. " * 8,
    "Questions? Answers!",
    "你好，世界",
    "In the year 1969",
    "<html><body>",
    "What is a worker?",
    "import numpy as np\n",
    "Dear Sir or Madam,",
    "Lorem ipsum dolor sit amet",
    "The three largest cities of Japan are",
    "Water boils at",
    "SELECT name FROM",
    "To be, or not to be",
    "A",
)


class Files:
    """The small model and the real one, each loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, LoadedModel] = {}

    @property
    def small(self) -> LoadedModel:
        return self._of("small")

    @property
    def real(self) -> LoadedModel:
        return self._of("real")

    def load(self, name: str) -> LoadedModel:
        path = self.folder / "small.gguf" if name == "small" else real_gguf()
        return load_gguf(path, "cpu", HashCache(self.folder))

    def _of(self, name: str) -> LoadedModel:
        if name not in self._loaded:
            self._loaded[name] = self.load(name)
        return self._loaded[name]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("gguf")
    small_gguf(build_checkpoint("qwen2", folder / "qwen2"), folder / "small.gguf")
    return Files(folder)


@asynccontextmanager
async def served(loaded: LoadedModel, **options: Any) -> AsyncIterator[GgufBackend]:
    """As `m`, with memory for KV_TOKENS."""
    options.setdefault("kv_bytes", KV_TOKENS * {512: 396}.get(loaded.context_length, 18_600))
    backend = GgufBackend(loaded, "m", lambda: 0, EngineOptions(threads=1, **options))
    yield backend
    await backend.close()


@pytest.fixture
async def small(files: Files) -> AsyncIterator[GgufBackend]:
    async with served(files.small) as backend:
        yield backend


def llama_greedy(model: LlamaModel, prompt: Sequence[int], tokens: int) -> list[int]:
    """What llama.cpp says by itself, one sequence in a context of its own."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 512, 1, 1
    params.flash_attn_type, params.swa_full = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED, True
    context = llama_cpp.llama_init_from_model(model.handle, params)
    found: list[int] = []
    next_ids = list(prompt)
    while len(found) < tokens:
        ids = (ctypes.c_int32 * len(next_ids))(*next_ids)
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, len(next_ids))) == 0
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (model.vocabulary_size,))
        next_ids = [int(logits.argmax())]
        found += next_ids
    llama_cpp.llama_free(context)
    return found


@pytest.mark.parametrize(("name", "prompts", "tokens"), [("small", 20, 32), ("real", scaled(2, 20), scaled(8, 32))])
async def test_greedy_is_llama_cpps_own(files: Files, name: str, prompts: int, tokens: int) -> None:
    loaded: LoadedModel = getattr(files, name)
    async with served(loaded) as backend:
        for text in PROMPTS[:prompts]:
            prompt = loaded.tokenizer(text)["input_ids"]
            request = ask(text, sampling=GREEDY, max_tokens=tokens, ignore_eos=True)
            assert list((await answer(backend, request)).choices[0].ids) == llama_greedy(loaded.model, prompt, tokens)


async def test_the_card_says_what_it_is(files: Files, small: GgufBackend) -> None:
    (card,) = small.models
    assert (card.dtype, card.quantization, card.context_length) == ("float32", "gguf-all_f32", CONTEXT_LENGTH)
    assert {CHAT, JSON_SCHEMA, LOGPROBS, RESUME} <= set(card.features)
    assert IMAGES not in card.features, "the file of a projector beside it is not loaded"
    assert card.digest == files.load("small").digest
    assert small.load.kv_free_tokens == small.load.kv_total_tokens >= KV_TOKENS - 64


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": GREEDY},
        {"sampling": Sampling(seed=5, temperature=1.2)},
        {"sampling": Sampling(seed=6, temperature=0.9, top_p=0.9, frequency_penalty=0.5), "stop": (" dog",)},
        {"sampling": Sampling(seed=7), "response_format": RegexFormat("[a-zäöü ]{3,30}")},
    ],
    ids=["greedy", "hot: broken characters", "penalties and a stop string", "a form"],
)
async def test_an_answer_goes_on_from_any_of_its_tokens(small: GgufBackend, files: Files, fields: Any) -> None:
    """None is lost, doubled or torn, wherever it is taken up; and nearly always it is the same answer."""
    assert await share_that_stays(small, files.small, "The dog", fields) >= 0.9


@pytest.mark.deep
@pytest.mark.parametrize("fields", [{"sampling": GREEDY}, {"sampling": Sampling(seed=4, temperature=0.8)}])
async def test_an_answer_of_the_real_model_goes_on_the_same(files: Files, fields: Any) -> None:
    async with served(files.real) as backend:
        assert await share_that_stays(backend, files.real, "The dog that I met in the park", fields) >= 0.95


async def share_that_stays(backend: GgufBackend, loaded: LoadedModel, prompt: str, fields: Any) -> float:
    """Takes an answer up wherever a delta ended. Returns in how many of these places the rest stayed the same."""
    whole = (await answer(backend, ask(prompt, max_tokens=24, **fields))).choices[0]
    prompt_ids = loaded.tokenizer(prompt)["input_ids"]
    places = [place for place in whole.clean if place[0] < len(whole.ids)]
    same = 0
    for count, chars, _ in places:
        resumed = ask(prompt, max_tokens=24, resume_tokens=whole.ids[:count], **fields)
        rest = (await answer(backend, resumed)).choices[0]
        ids = [*prompt_ids, *whole.ids[:count], *rest.ids]
        text = loaded.tokenizer.decode(ids, skip_special_tokens=True)
        assert text == prompt + whole.text[:chars] + rest.text or "stop" in fields
        same += rest.ids == whole.ids[count:]
    return same / len(places)


async def test_several_at_once_share_what_they_begin_with(small: GgufBackend) -> None:
    prompt = TokenPrompt(tuple(5 + index % 200 for index in range(96)))
    requests = [ask(prompt, sampling=GREEDY, max_tokens=8, ignore_eos=True) for _ in range(6)]
    (first, *others) = await asyncio.gather(*(answer(small, request) for request in requests))
    assert {other.choices[0].ids for other in others} == {first.choices[0].ids}
    assert [found.usage.cached_tokens for found in (first, *others)] == [0, 64, 64, 64, 64, 64]
    again = await answer(small, requests[0])
    assert again.usage.cached_tokens >= 64


async def test_logprobs_are_of_the_tokens_that_came(small: GgufBackend) -> None:
    found = await answer(small, ask(sampling=GREEDY, max_tokens=6, logprobs=3, echo=True, ignore_eos=True))
    for entry, token_id in zip(found.choices[0].logprobs, found.choices[0].ids, strict=True):
        assert entry.token_id == entry.top[0].token_id == token_id
        assert entry.logprob == entry.top[0].logprob <= 0
        assert sum(math.exp(likely.logprob) for likely in entry.top) <= 1.001
    assert [entry.logprob is None for entry in found.echoes[0].logprobs][:2] == [True, False]


async def test_an_answer_has_its_form(small: GgufBackend) -> None:
    schema = '{"type":"object","properties":{"a":{"enum":["x","y"]}},"required":["a"],"additionalProperties":false}'
    for seed in range(3):
        request = ask(sampling=Sampling(seed=seed), response_format=JsonSchemaFormat(schema), max_tokens=60)
        found = await answer(small, request)
        assert json.loads(found.choices[0].text) in ({"a": "x"}, {"a": "y"})
        assert found.reasons == ("stop",)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"prompt": TokenPrompt((5,) * 600), "max_tokens": 8}, ContextOverflow, "maximum context length is 512 tokens"),
        ({"prompt": "The dog does not mind. " * 900, "max_tokens": 8}, ContextOverflow, "maximum context length"),
        ({"max_tokens": 600}, ContextOverflow, "maximum context length"),
        ({"prompt": TokenPrompt((100_000,))}, InvalidRequest, "not in the vocabulary"),
    ],
)
async def test_what_is_wrong_with_a_request(
    small: GgufBackend, fields: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await answer(small, ask(**fields))


async def test_a_smaller_context_is_the_owners_to_choose(files: Files) -> None:
    async with served(files.small, context_tokens=256) as backend:
        assert backend.models[0].context_length == 256


async def test_a_chat_is_put_through_the_files_template(small: GgufBackend, files: Files) -> None:
    request = ask(ChatPrompt((Message("user", "Hello"),)), sampling=GREEDY, max_tokens=4)
    found = await answer(small, request)
    expected = files.small.tokenizer("<|user|>Hello\n<|assistant|>", add_special_tokens=False)["input_ids"]
    assert found.usage.prompt_tokens == len(expected)


async def test_pieces_are_whole_characters(files: Files) -> None:
    """The real tokenizer: rare signs are four tokens of one byte each."""
    loaded = files.real
    async with served(loaded) as backend:
        form = RegexFormat("(𞤀|𒁃| ){12}")
        found = await answer(
            backend, ask("𞤀", sampling=Sampling(seed=1, temperature=2), response_format=form, max_tokens=80)
        )
    choice = found.choices[0]
    assert choice.text == loaded.tokenizer.decode(choice.ids, skip_special_tokens=True)
    assert "\N{REPLACEMENT CHARACTER}" not in choice.text
    assert len(choice.clean) < len(choice.ids)  # some deltas have several tokens


async def test_it_leaves_memory_and_comes_back_the_same(files: Files) -> None:
    timers = ManualTimers()
    model: weakref.ref[LlamaModel] | None = None

    def load() -> LoadedModel:
        nonlocal model
        loaded = files.load("small")
        model = weakref.ref(loaded.model)
        return loaded

    options = EngineOptions(kv_bytes=KV_TOKENS * 396, threads=1)
    backend = GgufBackend(load(), "m", lambda: 0, options, Idling(600.0, load, timers.call_later))
    before = await answer(backend, ask(sampling=Sampling(seed=3), max_tokens=8))
    timers.go_off()
    await settle(lambda: model is not None and model() is None, max_turns=10_000_000)
    assert backend.models[0].is_cold
    after = await answer(backend, ask(sampling=Sampling(seed=3), max_tokens=8))
    assert after.choices[0].ids == before.choices[0].ids
    await backend.close()


async def test_memory_that_is_too_small_is_said(files: Files) -> None:
    with pytest.raises(UsageError, match="may be used for keys and values"):
        GgufBackend(files.small, "m", lambda: 0, EngineOptions(kv_bytes=1000))


def test_without_the_extra_the_message_says_how_to_install_it() -> None:
    script = (
        "import sys, pathlib; sys.modules['llama_cpp'] = None; from p2pnet.worker.gguf.trial import main; "
        "main(pathlib.Path('m.gguf'), 'cpu')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "takes llama.cpp, which is not installed" in done.stdout
    assert "pip install 'p2pnet[gguf]'" in done.stdout


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": GREEDY},
        {"sampling": Sampling(seed=5, temperature=1.2)},
        {"sampling": Sampling(seed=6, temperature=0.9, top_p=0.9, frequency_penalty=0.5), "stop": ("e",)},
        {"sampling": Sampling(seed=7), "response_format": RegexFormat("[a-zäöü ]{3,30}")},
    ],
    ids=["greedy", "hot", "penalties and a stop string", "a form"],
)
@pytest.mark.parametrize("prompt", ["The dog", "The dog does not mind. " * 12])
async def test_an_honest_answer_is_scored_as_one(small: GgufBackend, prompt: str, fields: Any) -> None:
    """Rows of an answer are computed again by the kernels that computed them: the very same tokens win."""
    (card,) = small.models
    request = ask(prompt, max_tokens=60, digest=card.digest, sampler=card.sampler, **fields)
    found = await answer(small, request)
    assert found.finished is not None
    asked = ScoreRequest(request, found.choices[0].ids, found.finished.reason, found.finished.stop)
    margins, end = await scored(small, asked)
    assert (sum(margins), end) == (0.0, 0.0)
    text = TextDelta(found.choices[0].text)
    assert await text_margin(small, asked, [text]) == 0.0
    longer = await text_margin(small, asked, [text, TextDelta("?")])
    assert longer is not None and longer > 0.01 and (asked.stop is not None or longer == MAX_MARGIN)
    if len(asked.token_ids) > 5:
        other = (*asked.token_ids[:3], asked.token_ids[3] + 1, *asked.token_ids[4:])
        margins, _ = await scored(small, msgspec.structs.replace(asked, token_ids=other))
        assert margins[:3] == [0.0] * 3 and margins[3] > 0
