"""Loads a cross-encoder, which reads a query and a document together, and runs it. Knows nothing of requests.

Gives what sentence-transformers' CrossEncoder gives for the same folder. Never runs code from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.checkpoint import Checkpoint, open_checkpoint
from p2pnet.worker.checkpoints.digest import HashCache, Progress, digest
from p2pnet.worker.checkpoints.footprint import free_bytes
from p2pnet.worker.checkpoints.loading import check_memory, load_tokenizer
from p2pnet.worker.checkpoints.plan import choose_device, choose_dtype
from p2pnet.worker.embedding.encoder import learned_positions

CLASSIFIER = "ForSequenceClassification"
"""How the names of such models end."""

CHARS_PER_TOKEN = 16
"""Of a long text the tokenizer gets so much for each token of the context: four times what a token of English has."""

ACTIVATIONS: Mapping[str, nn.Module] = {"Sigmoid": nn.Sigmoid(), "Identity": nn.Identity()}
"""What makes a score of the model's one number. sentence-transformers names it in the config; Sigmoid where not."""


def is_cross_encoder(folder: Path) -> bool:
    """Whether a folder's model gives one number for a text, or a pair of them."""
    if not (folder / "config.json").is_file():
        return False
    config = open_checkpoint(folder, may_be_quantized=True).config
    labels = config.get("id2label") or {}
    names = config.get("architectures") or [""]
    return str(names[0]).endswith(CLASSIFIER) and (config.get("num_labels") == 1 or len(labels) == 1)


@dataclass(frozen=True)
class CrossEncoder:
    """A model that is ready to rank. `context_length` counts query, document and special tokens together."""

    model: Any
    tokenizer: Any
    activation: nn.Module
    digest: str
    dtype: str
    context_length: int

    def encode(self, query: str, documents: Sequence[str]) -> list[dict[str, list[int]]]:
        """The tokens of each pair. The longer of the two is cut where both are too long together."""
        chars = CHARS_PER_TOKEN * self.context_length
        cut = [document[:chars] for document in documents]
        fields = self.tokenizer([query[:chars]] * len(cut), cut, truncation=True, max_length=self.context_length)
        return [{name: values[index] for name, values in fields.items()} for index in range(len(cut))]

    @torch.inference_mode()
    def score(self, pairs: Sequence[dict[str, list[int]]]) -> Tensor:
        """One number for each pair: float32 on the CPU."""
        batch = self.tokenizer.pad(list(pairs), return_tensors="pt").to(self.model.device)
        scores: Tensor = self.activation(self.model(**batch).logits[:, 0].float())
        return scores.cpu()


def load_cross_encoder(
    folder: Path, device: str, dtype: str, cache: HashCache, progress: Progress | None = None
) -> CrossEncoder:
    """Load the cross-encoder in a folder and run it once. Raises UsageError when that is not possible."""
    checkpoint = open_checkpoint(folder)
    device = choose_device(device)
    configured = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    chosen_dtype = choose_dtype(dtype, device, str(configured))
    check_memory(checkpoint, chosen_dtype, free_bytes(device))
    tokenizer, model = load_tokenizer(folder), _load_weights(checkpoint, device, chosen_dtype)
    name = str(model.dtype).removeprefix("torch.")
    length = min(tokenizer.model_max_length, *(learned_positions(module) for module in model.modules()))
    length = min(length, getattr(model.config, "max_position_embeddings", None) or length)
    activation = _activation(checkpoint.config)
    encoder = CrossEncoder(model, tokenizer, activation, digest(checkpoint, name, cache, progress), name, int(length))
    try:
        scores = encoder.score(encoder.encode("p2pnet", ["a network", ""]))
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise UsageError(
            "The model was loaded but does not run.", "Try another --dtype or --device, or another model."
        ) from error
    if not scores.isfinite().all():
        raise UsageError("The model was loaded but gives no numbers.", "Try another --dtype or --device.")
    return encoder


def _activation(config: Mapping[str, Any]) -> nn.Module:
    named = (config.get("sentence_transformers") or {}).get("activation_fn")
    named = named or config.get("sbert_ce_default_activation_function") or "Sigmoid"
    kind = str(named).rpartition(".")[2]
    if kind not in ACTIVATIONS:
        raise UsageError(f"Scores cannot be made with {kind} here.", "Use a cross-encoder with Sigmoid or Identity.")
    return ACTIVATIONS[kind]


def _load_weights(checkpoint: Checkpoint, device: str, dtype: str) -> Any:
    """All of its weights must be in the checkpoint: what is missing would be random."""
    folder = checkpoint.folder
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, RuntimeError, ImportError, TypeError, KeyError) as error:
        raise UsageError(
            f"The model in {folder} could not be loaded.", "Use a model that transformers knows, or save it again."
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise UsageError(f"The weights in {folder} lack {missing[0]}.", "Download or save the model again.")
    return model.eval().to(device)
