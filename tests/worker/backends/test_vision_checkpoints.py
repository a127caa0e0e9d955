"""A checkpoint of a model that could see: it reads texts as its own library does, and says that it reads no images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Qwen2VLConfig,
    SiglipVisionConfig,
)

from p2pnet.errors import FeatureMissing, UsageError
from p2pnet.features import CHAT, IMAGES, TEXT
from p2pnet.messages import ChatPrompt, GenerateRequest, ImagePart, Message, Sampling, TextDelta, TokenPrompt
from p2pnet.worker.backends.engine_backend import EngineOptions
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, load_model
from tests.checkpoints import CHAT_TEMPLATE, byte_fallback_tokenizer, byte_level_tokenizer
from tests.images import png

TOKENS = 24


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Gemma 3 with its eyes, small and random."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("gemma")
    tokenizer = byte_fallback_tokenizer(strips_leading_space=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = Gemma3TextConfig(
        **shape,
        vocab_size=len(tokenizer) + 8,
        hidden_size=32,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        sliding_window=16,
        initializer_range=0.2,
        bos_token_id=tokenizer.convert_tokens_to_ids("<bos>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<eos>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<eos>"),
    )
    eyes = SiglipVisionConfig(**shape, hidden_size=16, image_size=28, patch_size=14)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=text, vision_config=eyes, mm_tokens_per_image=4)
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder, "cpu", "float32", HashCache(folder))


async def test_its_texts_are_exact_and_its_images_are_refused(gemma: LoadedModel) -> None:
    backend = TransformersBackend(gemma, "gemma", lambda: 0, EngineOptions(kv_bytes=1 << 22))
    try:
        (card,) = backend.models
        assert {CHAT, TEXT} <= set(card.features) and IMAGES not in card.features

        ids = tuple(range(7, 57))  # longer than the window
        prompt, limits = (
            TokenPrompt(ids),
            {"sampling": Sampling(temperature=0), "max_tokens": TOKENS, "ignore_eos": True},
        )
        events = [event async for event in backend.generate(GenerateRequest("r1", "gemma", prompt, **limits))]
        said = [token for event in events if isinstance(event, TextDelta) for token in event.token_ids]
        with torch.inference_mode():
            expected = gemma.model.generate(
                torch.tensor([ids]), max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, eos_token_id=-1
            )
        assert said == expected[0, len(ids) :].tolist()

        seen = ChatPrompt((Message("user", "What is it?", images=(ImagePart(png()),)),))
        with pytest.raises(
            FeatureMissing, match=r"The model gemma cannot read images here \(images\): ask without images"
        ):
            await anext(backend.generate(GenerateRequest("r2", "gemma", seen)))
    finally:
        await backend.close()


def test_one_that_does_not_load_without_its_eyes_is_refused_at_the_start(tmp_path: Path) -> None:
    Qwen2VLConfig(architectures=["Qwen2VLForConditionalGeneration"]).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    save_file({"lm_head.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="is not a causal language model") as refused:
        load_model(tmp_path, "cpu", "float32", HashCache(tmp_path))
    assert "--upstream" in str(refused.value.fix)
