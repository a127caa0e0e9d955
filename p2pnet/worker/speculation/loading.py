"""Loads the small model that makes drafts for a large one, and checks that both speak of the same tokens."""

from __future__ import annotations

from pathlib import Path

import torch

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.digest import HashCache, Progress
from p2pnet.worker.checkpoints.loading import LoadedModel, load_model, load_tokenizer
from p2pnet.worker.engine.budget import kv_tokens
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.runner import kv_bytes_per_token, make_runner
from p2pnet.worker.speculation.draft_model import MODEL_ERRORS, DraftModel

WITHOUT = "Name a smaller model of the same family with --draft, or leave it out."


def load_draft_model(
    folder: Path,
    large: LoadedModel,
    tokens: int,
    device: str,
    cache: HashCache,
    progress: Progress | None = None,
) -> DraftModel:
    """Load the model in a folder, with memory for so many tokens. Raises UsageError, for another vocabulary before
    anything large is read."""
    if load_tokenizer(folder).get_vocab() != large.tokenizer.get_vocab():
        raise UsageError(f"The model in {folder} has other tokens than the one that it is to draft for.", WITHOUT)
    small = load_model(folder, device, "auto", cache, progress)
    try:
        runner = make_runner(small.model)
        bytes_per_token = kv_bytes_per_token(runner, small.model)
    except MODEL_ERRORS as error:
        raise UsageError(f"The model in {folder} was loaded but does not run.", WITHOUT) from error
    if not runner.is_packed:
        raise UsageError(f"The model in {folder} cannot go back to where it was right, as drafts need.", WITHOUT)
    store = KvStore(kv_tokens(torch.device(small.model.device).type, bytes_per_token, tokens, None))
    return DraftModel(runner, store, small.context_length, large.vocabulary_size)
