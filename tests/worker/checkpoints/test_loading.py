"""From a name to a model: what is loaded, what is refused and how it is said."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from p2pnet.errors import InvalidRequest, UsageError
from p2pnet.messages import ChatPrompt, Message, Prompt, TextPrompt, TokenPrompt
from p2pnet.worker.checkpoints.checkpoint import open_checkpoint
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model
from p2pnet.worker.checkpoints.plan import choose_device, choose_dtype, emulates_bfloat16
from p2pnet.worker.text.prompting import encode_prompt
from tests.checkpoints import CONTEXT_LENGTH, build_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded checkpoint that no test may change."""
    return build_checkpoint("llama", tmp_path_factory.mktemp("original") / "llama")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(original, tmp_path / "llama"))


def load(folder: Path, dtype: str = "float32", available_bytes: int = 1 << 30) -> LoadedModel:
    return load_model(folder, "cpu", dtype, HashCache(folder.parent / "cache"), available_bytes=available_bytes)


def edit_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_sharded_folder_loads(original: Path, tmp_path: Path) -> None:
    loaded = load_model(original, "cpu", "auto", HashCache(tmp_path))
    assert len(open_checkpoint(original).weights) > 1
    assert loaded.context_length == CONTEXT_LENGTH
    assert loaded.dtype == "float32"
    assert loaded.quantization == "none"
    assert loaded.memory_bytes == pytest.approx(open_checkpoint(original).memory_bytes(4), rel=0.01)
    assert loaded.end_token_ids == {loaded.tokenizer.eos_token_id}
    assert loaded.vocabulary_size == len(loaded.tokenizer) + 8
    assert not loaded.model.training


LOGIT_ERRORS = {"bfloat16": 0.05, "float16": 0.01}
"""Of the norm of float32's logits. Seen: 0.024 and 0.0034 on llama, half of that on gpt2."""


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", LOGIT_ERRORS)
def test_half_precision_runs_on_a_cpu(
    original: Path, tmp_path: Path, dtype: str, architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = original if architecture == "llama" else build_checkpoint(architecture, tmp_path / architecture)
    exact, half = (load_model(folder, "cpu", name, HashCache(tmp_path)) for name in ("float32", dtype))
    assert half.dtype == dtype
    assert half.digest != exact.digest
    assert 2 * half.memory_bytes == pytest.approx(exact.memory_bytes, rel=0.01)
    ids = torch.tensor([half.tokenizer("The quick brown fox jumps over the lazy dog.")["input_ids"]])
    with torch.no_grad():
        logits, expected = half.model(ids).logits, exact.model(ids).logits
    assert logits.dtype == getattr(torch, dtype)
    assert (logits.float() - expected).norm() < LOGIT_ERRORS[dtype] * expected.norm()
    assert ("slow" in caplog.text) == (dtype == "float16")


def test_end_tokens_of_the_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    loaded = load(folder)
    assert loaded.end_token_ids == {5, 6, loaded.tokenizer.eos_token_id}


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for pattern in names:
            for path in folder.glob(pattern):
                path.unlink()

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def configure(**fields: object) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **fields)


def rename(pattern: str, name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.glob(pattern):
            path.rename(folder / name)
        remove("*.safetensors*")(folder)

    return change


def leave_out_a_tensor(folder: Path) -> None:
    """transformers would make it up."""
    path = folder / "model-00001-of-00006.safetensors"
    tensors = load_file(path)
    tensors.popitem()
    save_file(tensors, path, metadata={"format": "pt"})


INDEX = "model.safetensors.index.json"
ENDLESS = {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "max_position_embeddings": None}

REFUSED = [
    ("no folder", shutil.rmtree, "does not exist"),
    ("no config", remove("config.json"), "no config.json"),
    ("a broken config", write("config.json", b"{"), "damaged"),
    ("a config that is no object", write("config.json", b"[]"), "damaged"),
    ("no weights", remove("*.safetensors*"), "no safetensors"),
    ("pickled weights only", rename("model-*", "pytorch_model.bin"), "no safetensors"),
    ("a shard is missing", remove("model-00001-of-*"), "lacks model-00001"),
    ("a shard elsewhere", write(INDEX, b'{"weight_map": {"a": "../llama/config.json"}}'), "lacks"),
    ("an empty index", write(INDEX, b'{"weight_map": {}}'), "lacks"),
    ("a broken index", write(INDEX, b"[]"), "damaged"),
    ("broken weights", write("model.safetensors", b"not safetensors at all"), "damaged"),
    ("a tensor is missing", leave_out_a_tensor, "weights in .* could not be loaded"),
    ("no tokenizer", remove("tokenizer*"), "no tokenizer"),
    ("a broken tokenizer", write("tokenizer.json", b"{}"), "tokenizer"),
    ("not a causal model", configure(architectures=["LlamaForSequenceClassification"]), "not a causal"),
    ("an encoder", configure(model_type="bert", architectures=["BertForMaskedLM"]), "not a causal"),
    ("an encoder and decoder", configure(model_type="t5", architectures=["T5Model"]), "not a causal"),
    ("a model with code of its own", configure(model_type="own", auto_map={"AutoConfig": "own.Config"}), "knows"),
    ("a quantized model", configure(quantization_config={"quant_method": "gptq"}), "quantized"),
    ("a quantization that is none", configure(quantization_config="gptq"), "damaged"),
    ("no context length", configure(**ENDLESS), "how long its context"),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_with_a_sentence_and_a_fix(folder: Path, change: Callable[[Path], object], words: str) -> None:
    change(folder)
    with pytest.raises(UsageError, match=words) as refused:
        load(folder)
    assert refused.value.fix
    assert "\n" not in refused.value.message


def test_a_model_that_does_not_fit_is_not_read(original: Path, tmp_path: Path) -> None:
    """Twice as many numbers fit in bfloat16 as in float32."""
    needed = open_checkpoint(original).memory_bytes(4)
    parameters = sum(parameter.numel() for parameter in load(original).model.parameters())
    assert needed == 4 * parameters
    with pytest.raises(UsageError, match="GB of memory"):
        load(original, "float32", needed - 1)
    assert load(original, "float32", needed).dtype == "float32"
    assert load(original, "bfloat16", needed // 2).dtype == "bfloat16"
    assert open_checkpoint(original).memory_bytes(None) == needed


@pytest.mark.parametrize("spec", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_path_is_never_looked_up_on_the_hub(spec: str) -> None:
    def fetch(model_id: str) -> Path:
        raise AssertionError(f"{model_id} was asked for")

    with pytest.raises(UsageError, match=f"The folder {spec} does not exist"):
        find_folder(spec, fetch)


@pytest.mark.parametrize("spec", ["model-q4.gguf", "nowhere/Model.GGUF", "./x.safetensors", "~/x.gguf"])
def test_a_file_that_does_not_exist_is_said_so(spec: str) -> None:
    with pytest.raises(UsageError, match=f"^The file {re.escape(spec)} does not exist") as refused:
        find_folder(spec, lambda model_id: pytest.fail(f"{model_id} was asked for"))
    assert "--upstream" in refused.value.fix


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    with pytest.raises(UsageError, match="is a file, and a model is a folder"):
        find_folder(str(tmp_path / "m.gguf"))


def test_what_can_be_an_id_is(tmp_path: Path) -> None:
    assert find_folder("someone/some-model", lambda model_id: tmp_path / model_id) == tmp_path / "someone/some-model"


@pytest.mark.parametrize("spec", ["no such model!", "some--model", "a/", "model.git"])
def test_nor_is_what_can_be_no_id(spec: str) -> None:
    with pytest.raises(UsageError, match="neither a folder nor a model id"):
        find_folder(spec, lambda model_id: pytest.fail(f"{model_id} was asked for"))


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline"), OSError("no route")])
def test_a_hub_out_of_reach_is_said_plainly(error: Exception) -> None:
    def fetch(model_id: str) -> Path:
        raise error

    with pytest.raises(UsageError) as refused:
        find_folder("someone/some-model", fetch)
    assert "someone/some-model" in refused.value.message
    assert "tiny" in refused.value.fix


def test_tiny_is_bundled(tmp_path: Path) -> None:
    loaded = load_model(find_folder("tiny"), "cpu", "auto", HashCache(tmp_path))
    assert loaded.tokenizer.chat_template


@pytest.mark.parametrize("device", ["tpu", "" if torch.cuda.is_available() else "cuda"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(UsageError):
        choose_device(device)


def test_dtypes() -> None:
    assert choose_dtype("auto", "cpu") == "float32"
    assert choose_dtype("auto", "cuda") == "auto"
    assert choose_dtype("float16", "mps") == "float16"
    with pytest.raises(UsageError):
        choose_dtype("int3", "cpu")


@pytest.mark.parametrize(
    ("dtype", "device", "configured", "is_emulated", "chosen"),
    [
        ("auto", "cuda", "bfloat16", True, "float16"),
        ("auto", "cuda", "bfloat16", False, "auto"),
        ("auto", "cuda", "float32", True, "auto"),
        ("auto", "cuda", "", True, "auto"),
        ("auto", "cpu", "bfloat16", True, "float32"),
        ("bfloat16", "cuda", "bfloat16", True, "bfloat16"),
    ],
)
def test_no_bfloat16_is_chosen_that_is_only_emulated(
    dtype: str, device: str, configured: str, is_emulated: bool, chosen: str
) -> None:
    assert choose_dtype(dtype, device, configured, lambda _: is_emulated) == chosen
    assert not emulates_bfloat16("cpu") and not emulates_bfloat16("mps")


@pytest.fixture(scope="module")
def chat_model(original: Path) -> LoadedModel:
    return load(original)


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Without chat template and begin token."""
    return load(build_checkpoint("gpt2", tmp_path_factory.mktemp("plain") / "gpt2"))


def encode(loaded: LoadedModel, prompt: Prompt) -> tuple[int, ...]:
    return encode_prompt(prompt, loaded.tokenizer, loaded.vocabulary_size, loaded.context_length)


def test_a_chat_is_rendered_with_the_models_template(chat_model: LoadedModel) -> None:
    ids = encode(chat_model, ChatPrompt((Message("system", "Be brief."), Message("user", "Hi"))))
    text = chat_model.tokenizer.decode(ids)
    parts = [part.strip() for part in text.split("<|")]
    assert parts[-3:] == ["system|> Be brief.", "user|> Hi", "assistant|>"]


def test_prompts(chat_model: LoadedModel, plain_model: LoadedModel) -> None:
    bos = chat_model.tokenizer.bos_token_id
    assert encode(chat_model, TextPrompt("the dog"))[0] == bos
    assert encode(chat_model, TextPrompt("")) == (bos,)
    assert encode(plain_model, TextPrompt("the dog")) == tuple(plain_model.tokenizer("the dog")["input_ids"])
    assert encode(plain_model, TokenPrompt((1, 2))) == (1, 2)


def test_refused_prompts(chat_model: LoadedModel, plain_model: LoadedModel) -> None:
    chat = ChatPrompt((Message("user", "Hi"),))
    refused: list[tuple[LoadedModel, Prompt, str]] = [
        (plain_model, chat, "no chat template"),
        (chat_model, ChatPrompt((Message("wizard", "Hi"),)), "unknown role"),
        (plain_model, TextPrompt(""), "empty"),
        (plain_model, TokenPrompt(()), "empty"),
        (plain_model, TokenPrompt((0, plain_model.vocabulary_size)), "not in the vocabulary"),
    ]
    for loaded, prompt, words in refused:
        with pytest.raises(InvalidRequest, match=words):
            encode(loaded, prompt)
