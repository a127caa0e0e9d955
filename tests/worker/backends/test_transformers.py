"""The transformers backend: exact against model.generate, resumable, cancellable, and refusing before it computes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from p2pnet.answer_forms import JsonFormat
from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest, ModelNotFound, UsageError, WorkerFailed
from p2pnet.features import ENGINE
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    Prompt,
    Sampling,
    TextDelta,
    TextPrompt,
    TokenPrompt,
)
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.backends.engine_backend import EngineOptions
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model
from p2pnet.worker.engine.engine import MAX_LEAD_DELTAS
from p2pnet.worker.engine.sampler import SAMPLER
from p2pnet.worker.engine.scheduler import SchedulerLimits
from tests.checkpoints import ARCHITECTURES, CONTEXT_LENGTH, SLIDING_WINDOW, build_checkpoint

GREEDY = Sampling(temperature=0)
LONG = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 3
PROMPTS = ("Once upon a time", "über 你好", LONG)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    """Loads each model once for this file. No test may change one."""
    folder = tmp_path_factory.mktemp("checkpoints")
    known: dict[str, LoadedModel] = {}

    def get(name: str) -> LoadedModel:
        if name not in known:
            place = find_folder("tiny") if name == "tiny" else build_checkpoint(name, folder / name)
            known[name] = load_model(place, "cpu", "float32", HashCache(folder))
        return known[name]

    return get


@pytest.fixture(scope="module")
def llama(loaded_models: Callable[[str], LoadedModel]) -> LoadedModel:
    return loaded_models("llama")


def serve(loaded: LoadedModel, name: str, chunk_tokens: int = 512, **options: Any) -> TransformersBackend:
    limits = SchedulerLimits(chunk_alone=chunk_tokens, chunk_beside=chunk_tokens)
    return TransformersBackend(loaded, name, lambda: 0, EngineOptions(limits=limits, kv_bytes=64 << 20, **options))


@pytest.fixture
async def backend(llama: LoadedModel) -> AsyncIterator[TransformersBackend]:
    backend = serve(llama, "llama", chunk_tokens=8)
    yield backend
    await backend.close()


def request(prompt: Prompt | str = "Once upon a time", **fields: Any) -> GenerateRequest:
    fields.setdefault("sampling", GREEDY)
    text = TextPrompt(prompt) if isinstance(prompt, str) else prompt
    return GenerateRequest("r1", fields.pop("model", "llama"), text, **fields)


async def run(backend: TransformersBackend, asked: GenerateRequest) -> list[BackendEvent]:
    return [event async for event in backend.generate(asked)]


def deltas_of(events: list[BackendEvent]) -> list[TextDelta]:
    return [event for event in events if isinstance(event, TextDelta)]


def ids_of(events: list[BackendEvent]) -> list[int]:
    return [token_id for delta in deltas_of(events) for token_id in delta.token_ids]


def text_of(events: list[BackendEvent]) -> str:
    return "".join(delta.text for delta in deltas_of(events))


def end_of(events: list[BackendEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def generated_by_transformers(loaded: LoadedModel, prompt: str, count: int, **options: Any) -> list[int]:
    """What the library's own generate gives, the end token included."""
    ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
    options = {"do_sample": False, "max_new_tokens": count, **options}
    found = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return [int(token_id) for token_id in found[0, ids.shape[1] :]]


@pytest.mark.parametrize("chunk_tokens", [512, 5], ids=["whole prefill", "prefill in chunks"])
@pytest.mark.parametrize("name", [*ARCHITECTURES, "tiny"])
async def test_greedy_is_exactly_that_of_generate(
    loaded_models: Callable[[str], LoadedModel], name: str, chunk_tokens: int
) -> None:
    loaded = loaded_models(name)
    backend = serve(loaded, name, chunk_tokens)
    distinct: set[int] = set()
    lengths = []
    for prompt in PROMPTS:
        events = await run(backend, request(prompt, model=name, max_tokens=48))
        expected = generated_by_transformers(loaded, prompt, 48)
        is_ended = expected[-1] in loaded.end_token_ids
        assert ids_of(events) == (expected[:-1] if is_ended else expected)
        assert end_of(events).reason == ("stop" if is_ended else "length")
        assert end_of(events).usage.completion_tokens == len(expected)
        distinct.update(expected)
        lengths.append(len(expected))
    assert len(distinct) > 20, "a model that repeats itself would hide errors"
    assert max(lengths) >= (48 if name != "tiny" else 10)
    await backend.close()


def test_the_long_prompt_is_longer_than_the_sliding_window(loaded_models: Callable[[str], LoadedModel]) -> None:
    for name in ("mistral", "gemma3"):
        loaded = loaded_models(name)
        assert loaded.model.config.sliding_window == SLIDING_WINDOW < len(loaded.tokenizer(LONG)["input_ids"])


async def test_greedy_past_the_end_token(loaded_models: Callable[[str], LoadedModel]) -> None:
    """With `ignore_eos` the ids are those of a generate that knows no end token."""
    loaded = loaded_models("tiny")
    reference: Any = AutoModelForCausalLM.from_pretrained(find_folder("tiny"), dtype=torch.float32)
    reference.generation_config.eos_token_id = None
    reference.config.eos_token_id = None
    ids = torch.tensor([loaded.tokenizer(PROMPTS[0])["input_ids"]])
    expected = reference.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=60)
    backend = serve(loaded, "tiny")
    events = await run(backend, request(PROMPTS[0], model="tiny", max_tokens=60, ignore_eos=True))
    assert ids_of(events) == expected[0, ids.shape[1] :].tolist()
    assert loaded.end_token_ids & set(ids_of(events)), "the case needs an end token in the middle"
    assert end_of(events).reason == "length"
    await backend.close()


async def test_greedy_with_repetition_penalty_is_that_of_generate(
    llama: LoadedModel, backend: TransformersBackend
) -> None:
    expected = generated_by_transformers(llama, PROMPTS[0], 48, repetition_penalty=1.5)
    assert expected != generated_by_transformers(llama, PROMPTS[0], 48)
    sampling = Sampling(temperature=0, repetition_penalty=1.5)
    assert ids_of(await run(backend, request(sampling=sampling, max_tokens=48))) == expected


@pytest.mark.parametrize("name", ["qwen2", "tiny"])
async def test_the_text_is_that_of_decoding_at_once(loaded_models: Callable[[str], LoadedModel], name: str) -> None:
    loaded = loaded_models(name)
    backend = serve(loaded, name)
    for prompt in (TextPrompt("Once upon a time"), ChatPrompt((Message("user", "Hello"),))):
        events = await run(backend, request(prompt, model=name, max_tokens=40, ignore_eos=True))
        assert len(ids_of(events)) == 40
        assert text_of(events) == loaded.tokenizer.decode(ids_of(events), skip_special_tokens=True)
    await backend.close()


async def test_accepted_comes_first(llama: LoadedModel, backend: TransformersBackend) -> None:
    accepted = (await run(backend, request(max_tokens=1)))[0]
    assert accepted == Accepted(len(llama.tokenizer("Once upon a time")["input_ids"]), llama.digest, sampler=SAMPLER)
    assert backend.models[0].sampler == SAMPLER


async def test_the_card(llama: LoadedModel, backend: TransformersBackend) -> None:
    (card,) = backend.models
    assert (card.id, card.digest, card.context_length) == ("llama", llama.digest, CONTEXT_LENGTH)
    assert (card.dtype, card.quantization, card.features) == ("float32", "none", (*ENGINE, "tokenize", "chat"))


SAMPLED = Sampling(seed=11, temperature=0.9, top_p=0.95)


async def test_a_seed_fixes_the_tokens(backend: TransformersBackend) -> None:
    asked = request(sampling=SAMPLED, max_tokens=40)
    first, second, third = [
        ids_of(events)
        for events in await asyncio.gather(
            run(backend, asked), run(backend, asked), run(backend, request(sampling=Sampling(seed=12), max_tokens=40))
        )
    ]
    assert first == second != third


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_another_worker_goes_on_after_any_delta(
    llama: LoadedModel, backend: TransformersBackend, sampling: Sampling
) -> None:
    """Given the prompt and the ids so far, it sends the rest of ids and text, and the same end."""
    prompt_ids = tuple(llama.tokenizer("Once upon a time")["input_ids"])
    whole = await run(backend, request(TokenPrompt(prompt_ids), sampling=sampling, max_tokens=30))
    deltas = deltas_of(whole)
    for cut in range(0, len(deltas), 3):
        seen = [token_id for delta in deltas[:cut] for token_id in delta.token_ids]
        other = serve(llama, "llama")
        resumed = request(TokenPrompt((*prompt_ids, *seen)), sampling=sampling, max_tokens=30 - len(seen))
        rest = await run(other, resumed)
        assert seen + ids_of(rest) == ids_of(whole)
        assert "".join(delta.text for delta in deltas[:cut]) + text_of(rest) == text_of(whole)
        assert end_of(rest).reason == end_of(whole).reason
        assert len(seen) + end_of(rest).usage.completion_tokens == end_of(whole).usage.completion_tokens
        await other.close()


async def test_a_stop_token_ends_it_and_is_not_in_the_deltas(backend: TransformersBackend) -> None:
    ids = ids_of(await run(backend, request(max_tokens=20)))
    stop = next(token_id for token_id in ids[5:] if token_id not in ids[:5])
    for ignore_eos in (False, True):
        events = await run(backend, request(max_tokens=20, stop_token_ids=(stop,), ignore_eos=ignore_eos))
        assert ids_of(events) == ids[: ids.index(stop)]
        assert end_of(events).reason == "stop"
        assert end_of(events).usage.completion_tokens == ids.index(stop) + 1


async def test_a_stop_string_ends_it_before_itself(backend: TransformersBackend) -> None:
    text = text_of(await run(backend, request(max_tokens=40)))
    for start in (0, 3, 11, 20):
        stop = text[start : start + 4]
        events = await run(backend, request(max_tokens=40, stop=(stop, "never there")))
        assert text_of(events) == text[: text.index(stop)]
        assert end_of(events).reason == "stop"


async def test_without_max_tokens_the_context_is_filled(backend: TransformersBackend) -> None:
    end = end_of(await run(backend, request(TokenPrompt((1,) * (CONTEXT_LENGTH - 20)), ignore_eos=True)))
    assert (end.reason, end.usage.completion_tokens) == ("length", 20)


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("another model", {"model": "other"}, ModelNotFound, "other"),
    ("another sampler", {"sampler": "gumbel-0"}, ModelNotFound, "sampler"),
    ("another digest", {"digest": "sha256:" + "0" * 64}, ModelNotFound, "digest"),
    ("too long a prompt", {"prompt": TokenPrompt((1,) * CONTEXT_LENGTH)}, ContextOverflow, "context length is 512"),
    ("too many tokens", {"max_tokens": CONTEXT_LENGTH}, ContextOverflow, "maximum context length is 512"),
    ("ids that are none", {"prompt": TokenPrompt((1 << 20,))}, InvalidRequest, "vocabulary"),
    ("stop ids that are none", {"stop_token_ids": (1 << 20,)}, InvalidRequest, "vocabulary"),
    ("a role the template refuses", {"prompt": ChatPrompt((Message("wizard", "Hi"),))}, InvalidRequest, "role"),
]


@pytest.mark.parametrize(
    ("fields", "error", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_refused_before_accepted(
    backend: TransformersBackend, passes: Passes, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await anext(backend.generate(request(**fields)))
    assert passes.count == 0


async def test_many_answers_are_taken_where_memory_holds_them_side_by_side(llama: LoadedModel) -> None:
    """Fewer may wait for one another, as ever."""
    backend = TransformersBackend(llama, "llama", lambda: 0, EngineOptions(slots=2))
    try:
        total = backend.load.kv_total_tokens
        fitting = await run(backend, request(n=17, max_tokens=2))
        assert isinstance(fitting[-1], Finished) and len(fitting[-1].other_reasons) == 16
        await anext(backend.generate(request(n=16, max_tokens=total // 4)))
        with pytest.raises(FeatureMissing, match="17 answers may take") as refused:
            await anext(backend.generate(request(n=17, max_tokens=total // 4)))
        assert refused.value.param == "n"
    finally:
        await backend.close()


class Passes:
    """Counts forward passes, and may hold one, fail in one or spoil its logits."""

    def __init__(self) -> None:
        self.count = 0
        self.hold_at: int | None = None
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.fail_at: dict[int, Exception] = {}
        self.spoil_at: int | None = None

    def before(self, *_: object) -> None:
        self.count += 1
        if self.count == self.hold_at:
            self.held.set()
            assert self.go_on.wait(timeout=60)
        if self.count in self.fail_at:
            raise self.fail_at[self.count]

    def after(self, _model: object, _inputs: object, output: Any) -> None:
        if self.count == self.spoil_at:
            output.logits[..., 3] = float("nan")


@pytest.fixture
def passes(llama: LoadedModel) -> Any:
    passes = Passes()
    hooks = [llama.model.register_forward_pre_hook(passes.before), llama.model.register_forward_hook(passes.after)]
    yield passes
    for hook in hooks:
        hook.remove()


async def test_closing_stops_within_one_step(backend: TransformersBackend, passes: Passes) -> None:
    """Given a step that is under way, when the reader closes the generator, then no step follows it."""
    passes.hold_at = 4
    events = backend.generate(request(max_tokens=400, ignore_eos=True))
    assert isinstance(await anext(events), Accepted)
    await anext(events)
    await asyncio.to_thread(passes.held.wait)
    closing = asyncio.ensure_future(events.aclose())
    asyncio.get_running_loop().call_soon(passes.go_on.set)
    await closing
    await backend.close()
    assert passes.count == 4


async def test_cancelling_the_reader_stops_within_one_step(backend: TransformersBackend, passes: Passes) -> None:
    """The same in the middle of the prompt: of its chunks only the one under way is finished."""
    passes.hold_at = 2
    reader = asyncio.ensure_future(run(backend, request(LONG, max_tokens=40)))
    await asyncio.to_thread(passes.held.wait)
    reader.cancel()
    asyncio.get_running_loop().call_soon(passes.go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await reader
    await backend.close()
    assert passes.count == 2


async def test_a_sequence_that_waits_its_turn_can_be_cancelled(backend: TransformersBackend, passes: Passes) -> None:
    passes.hold_at = 1
    first = asyncio.ensure_future(run(backend, request(max_tokens=3)))
    await asyncio.to_thread(passes.held.wait)
    waiting = backend.generate(request(max_tokens=3))
    assert isinstance(await anext(waiting), Accepted)
    turn = asyncio.ensure_future(anext(waiting))
    asyncio.get_running_loop().call_soon(turn.cancel)
    asyncio.get_running_loop().call_later(0, passes.go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert len(ids_of(await first)) <= 3
    assert passes.count == 3


async def test_deltas_flow_as_they_are_made(backend: TransformersBackend, passes: Passes) -> None:
    """The first one arrives while a later step is still held."""
    passes.hold_at = 6
    events = backend.generate(request(max_tokens=20))
    assert isinstance(await anext(events), Accepted)
    assert isinstance(await anext(events), TextDelta)
    assert not passes.go_on.is_set()
    passes.go_on.set()
    await events.aclose()


async def test_sequences_run_together(backend: TransformersBackend, passes: Passes) -> None:
    """Four answers take the steps of one; whoever is short is done first, whoever came first."""
    order: list[int] = []

    async def finish(index: int) -> None:
        await run(backend, request(f"{index} is a number", max_tokens=45 - 12 * index, ignore_eos=True))
        order.append(index)

    await asyncio.gather(*(finish(index) for index in range(4)))
    assert order == [3, 2, 1, 0]
    assert passes.count < 45 + 4 * 3


async def test_a_slow_reader_holds_up_nobody_and_fills_no_memory(backend: TransformersBackend, passes: Passes) -> None:
    """A reader that takes nothing has its sequence put down a bounded lead later; it goes on when it reads."""
    asked = request(max_tokens=300, ignore_eos=True)
    whole = await run(backend, asked)
    passes.count = 0
    slow = backend.generate(asked)
    seen = [await anext(slow), await anext(slow)]
    await run(backend, request(max_tokens=2))
    assert passes.count < 3 * MAX_LEAD_DELTAS < 300
    seen += [event async for event in slow]
    assert seen == whole


FAILURES = [
    ("torch says no", RuntimeError("mat1 and mat2"), "failed while it computed"),
    ("out of memory", torch.OutOfMemoryError("tried to allocate"), "ran out of memory"),
    ("a bug", KeyError("surprise"), "failed while it computed"),
]


@pytest.mark.parametrize(("error", "words"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES])
async def test_a_failure_fails_one_request(
    backend: TransformersBackend, passes: Passes, error: Exception, words: str
) -> None:
    passes.fail_at = {3: error}
    asked = request(max_tokens=6)
    seen: list[BackendEvent] = []
    with pytest.raises(WorkerFailed, match=words) as failed:
        async for event in backend.generate(asked):
            seen.append(event)
    assert str(error) not in failed.value.message
    assert isinstance(seen[0], Accepted)
    assert end_of(await run(backend, asked)).usage.completion_tokens == 6


async def test_logits_that_are_not_numbers_fail_one_request(backend: TransformersBackend, passes: Passes) -> None:
    passes.spoil_at = 2
    with pytest.raises(WorkerFailed, match="not numbers"):
        await run(backend, request(max_tokens=6))
    assert end_of(await run(backend, request(max_tokens=6))).usage.completion_tokens == 6


async def test_load(tmp_path: Path) -> None:
    folder = build_checkpoint("qwen2", tmp_path / "my-model")
    options: dict[str, Any] = {"now_ms": lambda: 0, "device": "cpu", "dtype": "auto", "cache_dir": tmp_path / "data"}
    progress: list[tuple[int, int]] = []
    backend = await TransformersBackend.from_spec(
        str(folder), served_name=None, progress=lambda done, total: progress.append((done, total)), **options
    )
    assert backend.models[0].id == "my-model"
    assert progress[-1][0] == progress[-1][1]
    assert ids_of(await run(backend, request(model="my-model", max_tokens=3)))
    await backend.close()
    renamed = await TransformersBackend.from_spec(str(folder), served_name="org/name", progress=None, **options)
    assert renamed.models[0].id == "org/name"
    await renamed.close()
    with pytest.raises(UsageError, match="cannot be served"):
        await TransformersBackend.from_spec(str(folder), served_name="not a name", progress=None, **options)


@pytest.mark.parametrize(
    ("fields", "begins"), [({}, True), ({"resume_tokens": (5,)}, True), ({"response_format": JsonFormat()}, False)]
)
async def test_it_says_that_an_answer_begins_within_its_thoughts(
    tmp_path: Path, fields: dict[str, Any], begins: bool
) -> None:
    loaded = load_model(find_folder("tiny"), "cpu", "float32", HashCache(tmp_path))
    loaded.tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}<think>\n"
    backend = serve(loaded, "tiny")
    chat = ChatPrompt((Message("user", "Hi"),))
    accepted = (await run(backend, request(chat, model="tiny", max_tokens=2, **fields)))[0]
    assert isinstance(accepted, Accepted) and accepted.begins_thinking == begins
    await backend.close()


async def test_a_model_without_a_key_value_cache_is_not_served(llama: LoadedModel) -> None:
    """Found out by what it does: what `forward` calls the cache differs between versions of transformers."""
    config = MambaConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2, initializer_range=0.2)
    loaded = replace(llama, model=AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(UsageError, match="no key-value cache"):
        TransformersBackend(loaded, "m", lambda: 0)


async def test_a_model_that_does_not_run_is_not_served(tmp_path: Path) -> None:
    """Weights that are not numbers are found before anybody is told of the model."""
    folder = build_checkpoint("gpt2", tmp_path / "broken")
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(UsageError, match="does not run"):
        await TransformersBackend.from_spec(
            str(folder), now_ms=lambda: 0, device="cpu", dtype="auto", cache_dir=tmp_path
        )
