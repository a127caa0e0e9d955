"""Loads a model that turns texts into vectors, and runs it. Knows nothing of requests.

Gives what sentence-transformers gives for the same folder. Never runs code from a checkpoint: `trust_remote_code` is
off, weights are safetensors, classes are chosen from our own lists.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import normalizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, MT5EncoderModel, T5EncoderModel, UMT5EncoderModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from p2pnet.embed_messages import MAX_DIMENSIONS
from p2pnet.errors import UsageError
from p2pnet.records import Task
from p2pnet.worker.checkpoints.checkpoint import Checkpoint, open_checkpoint
from p2pnet.worker.checkpoints.digest import HashCache, Progress, digest
from p2pnet.worker.checkpoints.footprint import free_bytes
from p2pnet.worker.checkpoints.loading import (
    LoadedModel,
    check_memory,
    load_tokenizer,
)
from p2pnet.worker.checkpoints.names import TINY_FOLDER
from p2pnet.worker.checkpoints.plan import choose_device, choose_dtype
from p2pnet.worker.checkpoints.quantization import NONE
from p2pnet.worker.embedding.files import Dense, EmbeddingRecipe, Step, has_recipe, read_recipe
from p2pnet.worker.embedding.pooling import pool

DIGEST_FORMAT = "p2pnet/embed-digest/1"

_ENCODER_HALVES: Mapping[str, Any] = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}
"""Of models with an encoder and a decoder, the first half."""

_UNUSED_WEIGHTS = ("pooler.", "lm_head.", "position_ids")
"""Parts of a model whose vectors we never take. They may be missing from a checkpoint."""

_CHARS_PER_TOKEN = 16
"""Of a very long text the tokenizer gets only a beginning, in which it finds twice the tokens that are read: what comes
behind those changes none of them. A text of 4 MB, read whole, takes 2 GB and 7 s."""

_MAX_CONTEXT_LENGTH = 1 << 24
"""What a capability record can say."""


def tasks_of(folder: Path) -> tuple[Task, ...]:
    """The tasks that a folder's model is served for. The bundled model does both. A folder in the sentence-transformers
    format embeds, even if it was made from a language model. A causal language model generates. Any other model that
    reads text embeds."""
    if folder.resolve() == TINY_FOLDER.resolve():
        return ("generate", "embed")
    if has_recipe(folder):
        return ("embed",)
    checkpoint = open_checkpoint(folder, may_be_quantized=True)
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    architectures = checkpoint.config.get("architectures") or [known.get(checkpoint.config.get("model_type"))]
    return ("generate",) if architectures[0] in known.values() else ("embed",)


@dataclass(frozen=True)
class Encoder:
    """A model that is ready to embed. Tokenizing and embedding may each run in a thread of its own."""

    model: Any
    tokenizer: Any
    """Its own, for it is told where to cut texts."""
    recipe: EmbeddingRecipe
    layers: tuple[Callable[[Tensor], Tensor], ...]
    """What follows the pooling."""
    digest: str
    dtype: str
    context_length: int
    """Tokens of one text, special ones included, that are read."""
    dimensions: int = 0
    quantization: str = NONE

    @property
    def vocabulary_size(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])

    def tokenize(self, text: str, max_tokens: int | None = None) -> tuple[int, ...]:
        """The ids of a text with the model's own special tokens, cut to `max_tokens`, by default `context_length`, as
        sentence-transformers cuts it. No ids for a text that the tokenizer finds nothing in."""
        text = self.recipe.prompt + text
        chars = _CHARS_PER_TOKEN * self.context_length
        while chars < len(text):
            if len(self._ids(text[:chars], 2 * self.context_length)) == 2 * self.context_length:
                text = text[:chars]
            chars *= 4
        return self._ids(text, max_tokens or self.context_length)

    def _ids(self, text: str, max_tokens: int) -> tuple[int, ...]:
        fields = self.tokenizer(
            text, truncation=True, max_length=max_tokens, return_attention_mask=False, return_token_type_ids=False
        )
        return tuple(fields["input_ids"])

    @torch.inference_mode()
    def embed(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        """One vector for each input: float32 on the CPU, (inputs, dimensions).

        Inputs are padded on the right, where padding changes nothing: positions count from the first token, and a
        causal model does not look ahead.
        """
        device = self.model.device
        lengths = torch.tensor([len(ids) for ids in inputs], device=device)
        padding_id = self.tokenizer.pad_token_id or 0
        width = max(map(len, inputs))
        ids = torch.tensor([[*ids, *[padding_id] * (width - len(ids))] for ids in inputs], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        arguments = {"use_cache": False} if "use_cache" in signature(self.model.forward).parameters else {}
        hidden = self.model(input_ids=ids, attention_mask=mask, **arguments).last_hidden_state
        vectors = pool(hidden, lengths, self.recipe.pooling.modes)
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors[:, : self.recipe.dimensions].cpu()


def load_encoder(folder: Path, device: str, dtype: str, cache: HashCache, progress: Progress | None = None) -> Encoder:
    """Load the encoder in a folder and run it once. Raises UsageError when that is not possible.

    `device` and `dtype` may be "auto".
    """
    recipe = read_recipe(folder)
    checkpoint = open_checkpoint(recipe.model_folder)
    device = choose_device(device)
    configured = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    chosen_dtype = choose_dtype(dtype, device, str(configured))
    check_memory(checkpoint, chosen_dtype, free_bytes(device))
    tokenizer = load_tokenizer(recipe.model_folder)
    model = _load_weights(checkpoint, device, chosen_dtype)
    name = str(model.dtype).removeprefix("torch.")
    return _assemble(model, tokenizer, recipe, digest(checkpoint, name, cache, progress), folder, cache)


def encoder_of(loaded: LoadedModel, folder: Path, cache: HashCache) -> Encoder:
    """An encoder that shares the weights of a language model already loaded from `folder`. Raises UsageError."""
    base = loaded.model.base_model
    shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    model = copy.deepcopy(base, shared)  # its own config: the engine may have chosen an attention that we cannot use
    model.set_attn_implementation("sdpa")
    tokenizer = copy.deepcopy(loaded.tokenizer)
    encoder = _assemble(model, tokenizer, read_recipe(folder), loaded.digest, folder, cache)
    return replace(encoder, quantization=loaded.quantization)


def _assemble(
    model: Any, tokenizer: Any, recipe: EmbeddingRecipe, weights_digest: str, folder: Path, cache: HashCache
) -> Encoder:
    if recipe.is_lower_case:
        backend = tokenizer.backend_tokenizer
        following = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *following])
    encoder = Encoder(
        model=model,
        tokenizer=tokenizer,
        recipe=recipe,
        layers=tuple(_layer(step, model.device) for step in recipe.steps),
        digest=_embed_digest(weights_digest, recipe, folder, cache),
        dtype=str(model.dtype).removeprefix("torch."),
        context_length=_context_length(model, tokenizer, recipe),
    )
    return replace(encoder, dimensions=_try_out(encoder))


def _embed_digest(weights_digest: str, recipe: EmbeddingRecipe, folder: Path, cache: HashCache) -> str:
    """A digest over that of a language model with these files and how its vectors are made; see docs/protocol.md."""
    total = hashlib.sha256()
    hashes = cache.hash_files(list(recipe.files))
    parts = [DIGEST_FORMAT.encode(), weights_digest.encode()]
    for path in sorted(recipe.files):
        parts += [path.relative_to(folder).as_posix().encode(), bytes.fromhex(hashes[path])]
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{total.hexdigest()}"


def _load_weights(checkpoint: Checkpoint, device: str, dtype: str) -> Any:
    """The model without any head. All of its weights must be in the checkpoint: what is missing would be random."""
    folder = checkpoint.folder
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.is_encoder_decoder and config.model_type not in _ENCODER_HALVES:
            raise UsageError(f"A {config.model_type} cannot embed here.", "Use an encoder, such as a BERT.")
        model_class: Any = _ENCODER_HALVES.get(config.model_type, AutoModel)
        model, found = model_class.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        missing = [name for name in sorted(found["missing_keys"]) if not _is_unused(name)]
        if missing:
            raise UsageError(f"The weights in {folder} lack {missing[0]}.", "Download or save the model again.")
        return model.eval().to(device)
    except torch.OutOfMemoryError as error:
        raise UsageError("The model does not fit the device's memory.", "Use a smaller model.") from error
    except (ValueError, OSError, RuntimeError, ImportError, TypeError, KeyError) as error:
        raise UsageError(
            f"The model in {folder} could not be loaded.", "Use a model that transformers knows, or save it again."
        ) from error


def _is_unused(name: str) -> bool:
    return any(part in f"{name}." for part in _UNUSED_WEIGHTS)


def _layer(step: Step, device: torch.device) -> Callable[[Tensor], Tensor]:
    if not isinstance(step, Dense):
        return lambda vectors: nn.functional.normalize(vectors, dim=-1)
    activations: Any = nn
    linear = nn.Linear(step.in_features, step.out_features, step.has_bias)
    try:
        weights = load_file(step.weights)
        linear.load_state_dict({name.removeprefix("linear."): weight.float() for name, weight in weights.items()})
    except (RuntimeError, OSError, SafetensorError) as error:
        raise UsageError(f"{step.weights} is damaged.", "Download or save the model again.") from error
    return nn.Sequential(linear, getattr(activations, step.activation)()).eval().to(device)


def _context_length(model: Any, tokenizer: Any, recipe: EmbeddingRecipe) -> int:
    """The length that the recipe says, or else the tokenizer and the model, but never more than the model has positions
    for."""
    positions = getattr(model.config, "max_position_embeddings", None) or _MAX_CONTEXT_LENGTH
    length = recipe.max_tokens or min(tokenizer.model_max_length, positions)
    length = min(length, *(learned_positions(module) for module in model.modules()))
    if length >= _MAX_CONTEXT_LENGTH:
        raise UsageError(
            f"Neither the model nor the tokenizer in {recipe.model_folder} says how long a text may be.",
            "Add model_max_length to tokenizer_config.json.",
        )
    return int(length)


def learned_positions(module: Any) -> int:
    """How many tokens a layer of learned positions has room for. RoBERTa and its kin count from behind the padding."""
    positions = getattr(module, "position_embeddings", None)
    if not isinstance(positions, nn.Embedding):
        return _MAX_CONTEXT_LENGTH
    padding_id = getattr(module, "padding_idx", None)
    return positions.num_embeddings - (padding_id + 1 if isinstance(padding_id, int) else 0)


def _try_out(encoder: Encoder) -> int:
    """Embed two short inputs: a model is announced only when it has just run. Returns how long its vectors are. Raises
    UsageError."""
    ids = encoder.tokenize("p2pnet")
    segments = encoder.tokenizer("p2pnet").get("token_type_ids") or [0]
    if any(segments):
        raise UsageError("The model marks the segments of a text.", "Use a model such as BERT, RoBERTa or Qwen.")
    try:
        vectors = encoder.embed([ids or (0,), (0,)])
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise UsageError(
            "The model was loaded but does not run.", "Try another --dtype or --device, or another model."
        ) from error
    if not vectors.isfinite().all():
        raise UsageError("The model was loaded but gives no numbers.", "Try another --dtype or --device.")
    if vectors.shape[1] > MAX_DIMENSIONS:
        raise UsageError(f"The model's vectors have more than {MAX_DIMENSIONS} dimensions.", "Use another model.")
    return int(vectors.shape[1])
