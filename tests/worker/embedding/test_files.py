"""The files of a sentence-transformers folder: what is done as they say, and what is refused rather than left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2pnet.errors import UsageError
from p2pnet.worker.embedding.files import Dense, EmbeddingRecipe, Normalize, Pooling, read_recipe

POOLING = "1_Pooling/config.json"
DENSE = "2_Dense/config.json"
SETTINGS = "sentence_bert_config.json"
SENTENCES = "config_sentence_transformers.json"

Files = dict[str, Any]


def modules(*kinds: str, **changes: Any) -> list[dict[str, Any]]:
    """modules.json as sentence-transformers writes it. `changes` are of the last module."""
    found = [
        {
            "idx": index,
            "name": str(index),
            "path": "" if kind == "Transformer" else f"{index}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    found[-1] |= changes
    return found


PLAIN: Files = {"modules.json": modules("Transformer", "Pooling"), POOLING: {"word_embedding_dimension": 8}}
DENSE_FILES: Files = {
    **PLAIN,
    "modules.json": modules("Transformer", "Pooling", "Dense", "Normalize"),
    DENSE: {
        "in_features": 8,
        "out_features": 4,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    },
    "2_Dense/model.safetensors": b"",
}


def write(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def test_a_plain_folder_means_the_mean(tmp_path: Path) -> None:
    assert read_recipe(tmp_path) == EmbeddingRecipe(tmp_path, Pooling(("mean",)))


def test_everything_that_a_folder_may_say(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            **DENSE_FILES,
            SETTINGS: {"max_seq_length": 128, "do_lower_case": True},
            SENTENCES: {
                "__version__": {"sentence_transformers": "6.2.0"},
                "model_type": "SentenceTransformer",
                "prompts": {"query": "Q: ", "document": ""},
                "default_prompt_name": "query",
                "similarity_fn_name": "cosine",
                "truncate_dim": 3,
            },
        },
    )
    recipe = read_recipe(folder)
    assert recipe.steps == (Dense(folder / "2_Dense/model.safetensors", 8, 4, True, "Identity"), Normalize())
    assert (recipe.max_tokens, recipe.is_lower_case, recipe.prompt, recipe.dimensions) == (128, True, "Q: ", 3)
    assert {path.relative_to(folder).as_posix() for path in recipe.files} == {
        "modules.json", SETTINGS, SENTENCES, POOLING, DENSE, "2_Dense/model.safetensors",
    }  # fmt: skip


NEWER_SETTINGS = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
    "max_seq_length": None,
    "processing_kwargs": {},
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({SETTINGS: NEWER_SETTINGS}, {}),
        ({SETTINGS: {}, "sentence_roberta_config.json": {"max_seq_length": 9}}, {"max_tokens": 9}),
        ({SETTINGS: {"max_seq_length": 7}, "sentence_xlnet_config.json": {"max_seq_length": 9}}, {"max_tokens": 7}),
        ({POOLING: {"pooling_mode": "cls"}}, {"pooling": Pooling(("cls",))}),
        ({POOLING: {"pooling_mode": ["max", "mean"]}}, {"pooling": Pooling(("max", "mean"))}),
        ({POOLING: {"pooling_mode_mean_tokens": False}}, {"pooling": Pooling(("mean",))}),
        (
            {
                POOLING: {
                    "pooling_mode_lasttoken": True,
                    "pooling_mode_cls_token": True,
                    "pooling_mode_mean_tokens": False,
                }
            },
            {"pooling": Pooling(("cls", "lasttoken"))},
        ),
        ({POOLING: {"pooling_mode": "mean", "include_prompt": False}}, {"pooling": Pooling(("mean",))}),
        ({SENTENCES: {"prompts": {"query": "q "}, "default_prompt_name": None}}, {"prompt": ""}),
        ({SENTENCES: {"prompts": {}, "default_prompt_name": "query"}}, {"prompt": ""}),
    ],
)
def test_spellings(files: Files, expected: dict[str, Any], tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, {**PLAIN, **files}))
    assert {name: getattr(recipe, name) for name in expected} == expected


def test_the_model_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    inside = modules("Transformer", "Pooling")
    inside[0]["path"] = "0_Transformer"
    files = {**PLAIN, "modules.json": inside, f"0_Transformer/{SETTINGS}": {"max_seq_length": 5}}
    recipe = read_recipe(write(tmp_path, files))
    assert (recipe.model_folder, recipe.max_tokens) == (tmp_path / "0_Transformer", 5)


REFUSED: list[tuple[str, Files, str]] = [
    ("another module", {"modules.json": modules("Transformer", "Pooling", "LSTM")}, "LSTM"),
    ("no pooling", {"modules.json": modules("Transformer", "Normalize")}, "Transformer, Normalize"),
    ("two models", {"modules.json": modules("Transformer", "Pooling", "Transformer")}, "Transformer"),
    ("no module", {"modules.json": []}, "none"),
    ("bags of words", {"modules.json": modules("BoW", "Pooling")}, "BoW"),
    ("code", {"modules.json": modules("Transformer", "Pooling", type="custom_st.Pooling")}, "never run"),
    (
        "code like ours",
        {"modules.json": modules("Transformer", "Pooling", type="sentence_transformersx.Pooling")},
        "never",
    ),
    ("arguments", {"modules.json": modules("Transformer", "Pooling", kwargs=["task"])}, "arguments"),
    ("a way out", {"modules.json": modules("Transformer", "Pooling", path="../1_Pooling")}, "damaged"),
    ("an absolute path", {"modules.json": modules("Transformer", "Pooling", path="/etc")}, "damaged"),
    ("a number as path", {"modules.json": modules("Transformer", "Pooling", path=1)}, "damaged"),
    ("no list", {"modules.json": {}}, "damaged"),
    ("no JSON", {"modules.json": b"["}, "damaged"),
    ("no objects", {"modules.json": ["Transformer", "Pooling"]}, "damaged"),
    ("nested too deep", {"modules.json": b"[" * 200_000}, "damaged"),
    ("no pooling file", {"modules.json": modules("Transformer", "Pooling", path="2_Pooling")}, "no config.json"),
    ("unknown pooling", {POOLING: {"pooling_mode": "median"}}, "'median'"),
    ("pooling of nothing", {POOLING: {"pooling_mode": []}}, "damaged"),
    ("pooling by number", {POOLING: {"pooling_mode": 3}}, "damaged"),
    (
        "a prompt left out of the mean",
        {POOLING: {"include_prompt": False}, SENTENCES: {"prompts": {"a": "A"}, "default_prompt_name": "a"}},
        "prompt",
    ),
    ("a prompt that is not there", {SENTENCES: {"prompts": {}, "default_prompt_name": "a"}}, "damaged"),
    ("prompts that are none", {SENTENCES: {"prompts": ["a"]}}, "damaged"),
    ("a sparse encoder", {SENTENCES: {"model_type": "SparseEncoder"}}, "SparseEncoder"),
    ("no dimensions", {SENTENCES: {"truncate_dim": 0}}, "damaged"),
    ("another task", {SETTINGS: {"transformer_task": "text-generation"}}, "transformer_task"),
    ("arguments of the model", {SETTINGS: {"model_args": {"trust_remote_code": True}}}, "model_args"),
    ("chats", {SETTINGS: {"modality_config": {**NEWER_SETTINGS["modality_config"], "message": {}}}}, "modality_config"),  # type: ignore[dict-item]
    ("images", {SETTINGS: {"modality_config": {"image": {}}}}, "modality_config"),
    ("a length of text", {SETTINGS: {"max_seq_length": "many"}}, "damaged"),
    ("a negative length", {SETTINGS: {"max_seq_length": -1}}, "damaged"),
    ("an unknown activation", {**DENSE_FILES, DENSE: {"activation_function": "os.system"}}, "os.system"),
    ("a class of torch that is none", {**DENSE_FILES, DENSE: {"activation_function": "torch.nn.Transformer"}}, "torch"),
    ("a dense layer of tokens", {**DENSE_FILES, DENSE: {"module_input_name": "token_embeddings"}}, "elsewhere"),
    ("a residual", {**DENSE_FILES, DENSE: {"use_residual": True}}, "elsewhere"),
    ("no sizes", {**DENSE_FILES, DENSE: {"in_features": 8}}, "damaged"),
    (
        "normalizing tokens",
        {**DENSE_FILES, "3_Normalize/config.json": {"module_input_name": "token_embeddings"}},
        "else",
    ),
]


@pytest.mark.parametrize(("files", "named"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_not_done_is_refused(files: Files, named: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        read_recipe(write(tmp_path, {**PLAIN, **files}))
    assert named in str(refusal.value)
    assert refusal.value.fix


def test_weights_that_can_run_code_are_not_loaded(tmp_path: Path) -> None:
    files = {name: content for name, content in DENSE_FILES.items() if not name.endswith("safetensors")}
    with pytest.raises(UsageError, match=r"no model\.safetensors") as refusal:
        read_recipe(write(tmp_path, {**files, "2_Dense/pytorch_model.bin": b"pickle"}))
    assert "can run code" in refusal.value.fix
