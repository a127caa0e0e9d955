"""Tokens as a model's own tokenizer has them: as many as a generation counts, by transformers and by llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from p2pnet.errors import ContextOverflow, FeatureMissing, InvalidRequest, ModelNotFound
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    Prompt,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolCall,
)
from p2pnet.tokenize_messages import MAX_IDS_AT_ONCE, Tokenized, TokenizeRequest
from p2pnet.worker.backends.engine_backend import EngineOptions
from p2pnet.worker.backends.gguf import GgufBackend
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model
from p2pnet.worker.gguf.loading import load_gguf
from p2pnet.worker.text.token_parts import MAX_NAME_BYTES_AT_ONCE, id_parts
from tests.checkpoints import build_checkpoint
from tests.gguf_files import small_gguf
from tests.llama_server import TEMPLATE

WEATHER = Tool("weather", "Tells the weather", '{"type": "object", "properties": {"city": {"type": "string"}}}')
CALL = ToolCall("call_1", "weather", '{"city": "Köln"}')
CHAT = ChatPrompt((Message("system", "Be brief."), Message("user", "Hello, 你好!")))
TOLD = ChatPrompt(
    (*CHAT.messages, Message("assistant", "", (CALL,)), Message("tool", "sunny", tool_call_id="call_1")), (WEATHER,)
)
PROMPTS: dict[str, Prompt] = {
    "a text": TextPrompt("Once upon a time, über 你好"),
    "a chat": CHAT,
    "a chat with tools and what they said": TOLD,
    "tools that must not be called": ChatPrompt(CHAT.messages, (WEATHER,), tool_choice="none"),
}


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """With a template that knows tools."""
    loaded = load_model(find_folder("tiny"), "cpu", "float32", HashCache(tmp_path_factory.mktemp("cache")))
    loaded.tokenizer.chat_template = TEMPLATE
    yield loaded


def serve(loaded: LoadedModel) -> TransformersBackend:
    return TransformersBackend(loaded, "m", lambda: 0, EngineOptions(kv_bytes=8 << 20))


def ask(prompt: Prompt, **fields: Any) -> TokenizeRequest:
    return TokenizeRequest("r1", fields.pop("model", "m"), prompt, **fields)


async def tell(backend: Any, request: TokenizeRequest) -> tuple[int, tuple[int, ...], tuple[str, ...], str]:
    """The count, the ids, their names, and the text."""
    accepted, *parts, finished = [event async for event in backend.tokenize(request)]
    assert isinstance(accepted, Accepted) and isinstance(finished, Finished)
    assert accepted.prompt_tokens == finished.usage.prompt_tokens
    assert all(isinstance(part, Tokenized) for part in parts)
    ids = tuple(token_id for part in parts for token_id in part.token_ids)
    return accepted.prompt_tokens, ids, tuple(n for part in parts for n in part.names), "".join(p.text for p in parts)


async def generated(backend: Any, prompt: Prompt) -> int:
    """What a generation says that the prompt has."""
    request = GenerateRequest("r2", "m", prompt, max_tokens=1)
    finished = [event async for event in backend.generate(request)][-1]
    assert isinstance(finished, Finished)
    return finished.usage.prompt_tokens


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
async def test_a_count_is_what_a_generation_counts(tiny: LoadedModel, prompt: Prompt) -> None:
    backend = serve(tiny)
    count, ids, names, text = await tell(backend, ask(prompt))
    assert (count, ids, names, text) == (await generated(backend, prompt), (), (), "")
    count, ids, *_ = await tell(backend, ask(prompt, wants="ids"))
    assert count == len(ids)
    await backend.close()


async def test_the_same_of_a_gguf_file(tmp_path: Path) -> None:
    changes = {"tokenizer__chat_template": TEMPLATE}
    file = small_gguf(build_checkpoint("qwen2", tmp_path / "qwen2"), tmp_path / "small.gguf", **changes)
    loaded = load_gguf(file, "cpu", HashCache(tmp_path))
    backend = GgufBackend(loaded, "m", lambda: 0, EngineOptions(kv_bytes=8 << 20))
    for prompt in PROMPTS.values():
        count, ids, names, _ = await tell(backend, ask(prompt, wants="names"))
        assert count == len(ids) == len(names)
        if count < backend.models[0].context_length:
            assert count == await generated(backend, prompt)
    _, ids, *_ = await tell(backend, ask(TextPrompt("Once upon"), wants="ids", adds_special=False))
    assert (await tell(backend, ask(TokenPrompt(ids))))[3] == "Once upon"
    await backend.close()


async def test_ids_names_and_text_are_the_tokenizers_own(tmp_path: Path) -> None:
    place = build_checkpoint("llama", tmp_path / "llama")
    loaded = load_model(place, "cpu", "float32", HashCache(tmp_path))
    tokenizer, backend = loaded.tokenizer, serve(loaded)
    text = "Once upon a time, über 你好"
    expected = tokenizer(text)["input_ids"]
    for adds_special in (None, True):
        _, ids, names, _ = await tell(backend, ask(TextPrompt(text), wants="names", adds_special=adds_special))
        assert list(ids) == expected
        assert list(names) == tokenizer.convert_ids_to_tokens(expected)
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert await tell(backend, ask(TextPrompt(text), wants="ids", adds_special=False)) == (
        len(plain),
        tuple(plain),
        (),
        "",
    )
    assert (await tell(backend, ask(TokenPrompt(tuple(plain)))))[3] == text
    await backend.close()


async def test_special_tokens_come_on_top_of_a_template_where_they_are_asked_for(tiny: LoadedModel) -> None:
    backend = serve(tiny)
    turns = [{"role": message.role, "content": message.content} for message in CHAT.messages]
    text = tiny.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    _, ids, *_ = await tell(backend, ask(CHAT, wants="ids", adds_special=True))
    assert list(ids) == tiny.tokenizer(text)["input_ids"]
    await backend.close()


async def test_a_prompt_longer_than_the_context_is_counted_and_one_of_absurd_length_refused(tiny: LoadedModel) -> None:
    backend = serve(tiny)
    longest = backend.models[0].context_length
    words = "word " * (longest + 1)
    assert (await tell(backend, ask(TextPrompt(words))))[0] > longest
    with pytest.raises(ContextOverflow):
        await tell(backend, ask(TextPrompt(words * 100)))
    await backend.close()


WRONG: dict[str, tuple[TokenizeRequest, type[Exception]]] = {
    "another model": (ask(CHAT, model="other"), ModelNotFound),
    "another digest": (ask(CHAT, digest="sha256:" + "0" * 64), ModelNotFound),
    "an id that there is not": (ask(TokenPrompt((1 << 30,))), InvalidRequest),
    "a prompt with a gap": (ask(TextPrompt("a", "b")), InvalidRequest),
    "a template that refuses": (ask(ChatPrompt((Message("user", "a"),), (WEATHER, WEATHER))), InvalidRequest),
}


@pytest.mark.parametrize(("request_", "error"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_said(tiny: LoadedModel, request_: TokenizeRequest, error: type[Exception]) -> None:
    backend = serve(tiny)
    with pytest.raises(error):
        await tell(backend, request_)
    await backend.close()


async def test_messages_of_a_model_without_a_template_are_refused(tmp_path: Path) -> None:
    loaded = load_model(build_checkpoint("llama", tmp_path / "llama"), "cpu", "float32", HashCache(tmp_path))
    loaded.tokenizer.chat_template = None
    backend = serve(loaded)
    with pytest.raises(FeatureMissing):
        await tell(backend, ask(CHAT))
    await backend.close()


def test_tokens_are_told_in_pieces_that_fit_a_frame() -> None:
    ids = list(range(2 * MAX_IDS_AT_ONCE + 1))
    assert [len(part.token_ids) for part in id_parts(ids, None)] == [MAX_IDS_AT_ONCE, MAX_IDS_AT_ONCE, 1]
    names = ["你" * 1000] * 100
    parts = list(id_parts(range(100), names))
    assert [token_id for part in parts for token_id in part.token_ids] == list(range(100))
    assert all(len("".join(part.names).encode()) <= MAX_NAME_BYTES_AT_ONCE for part in parts)
