"""Loads a part of a checkpoint into memory: the tensors of some layers, or those before and after all layers.

The model is built without memory, what is not wanted is taken out, and transformers reads the tensors that are left:
so renamed and merged tensors are as in the whole model. Knows nothing of how a part is run.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from p2pnet.errors import UsageError
from p2pnet.worker.checkpoints.checkpoint import INDEX_FILE, Checkpoint, open_checkpoint
from p2pnet.worker.checkpoints.digest import HashCache, Progress, digest
from p2pnet.worker.checkpoints.footprint import bytes_in_memory, free_bytes
from p2pnet.worker.checkpoints.loading import LOAD_ERRORS, LoadedModel, check_bytes, end_token_ids, load_tokenizer
from p2pnet.worker.checkpoints.plan import AUTO, plan_loading
from p2pnet.worker.checkpoints.quantization import NONE
from p2pnet.worker.engine.runner import reason_against_packing
from p2pnet.worker.spans.gate import Gate, Passage, layers_of

_CROSSING = ("hidden_size_per_layer_input", "num_kv_shared_layers")
"""What a config says of layers that need more than the hidden states of the layer before them."""

WHOLE = "Serve the model whole, without --layers."


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a model in memory: layers [first, last), none of them where these are the same."""

    model: Any
    passage: Passage
    first: int
    last: int
    layers: int
    """Of the whole model."""
    digest: str
    """Of the whole model, as a worker that runs all of it has it."""
    dtype: str
    width: int
    """How many numbers a token's hidden state has."""
    context_length: int
    memory_bytes: int


@dataclass(frozen=True)
class LayerSizes:
    """What the layers of a model take in memory, known before any is loaded."""

    digest: str
    layers: int
    layer_bytes: int
    """Of the largest one."""
    rest_bytes: int
    """What a span has beside its layers, however many these are."""
    kv_bytes: int
    """What the keys and values of one token take in one layer."""
    state_bytes: int
    """What a span gives for one token, and keeps for the stage after it."""
    context_length: int

    def fitting(self, memory_bytes: int, kv_tokens: int) -> int:
        """How many layers fit into so much memory, together with what they keep of so many tokens."""
        of_one = self.layer_bytes + kv_tokens * self.kv_bytes
        return min(self.layers, max(0, (memory_bytes - self.rest_bytes - kv_tokens * self.state_bytes) // of_one))


def measure_layers(
    folder: Path, device: str, dtype: str, cache: HashCache, progress: Progress | None = None
) -> LayerSizes:
    """What the layers of the model in a folder take. Raises UsageError, also where some of its files are elsewhere."""
    return _Loading(folder, device, dtype, None).sizes(cache, progress)


def load_span(
    folder: Path,
    first: int,
    last: int,
    device: str,
    dtype: str,
    cache: HashCache,
    progress: Progress | None = None,
    available_bytes: int | None = None,
) -> Part:
    """Load layers [first, last) of the model in a folder. Raises UsageError, before anything large is read."""
    return _Loading(folder, device, dtype, available_bytes).part(first, last, cache, progress)


def load_ends(
    folder: Path,
    device: str,
    dtype: str,
    cache: HashCache,
    progress: Progress | None = None,
    available_bytes: int | None = None,
) -> tuple[Part, LoadedModel]:
    """Load what stands before and after all layers: embeddings, final norm, output layer, and the tokenizer. Raises
    UsageError, before anything large is read."""
    loading = _Loading(folder, device, dtype, available_bytes)
    tokenizer = load_tokenizer(folder)
    part = loading.part(0, 0, cache, progress)
    loaded = LoadedModel(
        model=part.model,
        tokenizer=tokenizer,
        digest=part.digest,
        dtype=part.dtype,
        quantization=NONE,
        memory_bytes=part.memory_bytes,
        context_length=part.context_length,
        end_token_ids=end_token_ids(part.model, tokenizer),
        vocabulary_size=int(part.model.get_input_embeddings().weight.shape[0]),
    )
    return part, loaded


class _Loading:
    """One checkpoint that is to be loaded in part."""

    def __init__(self, folder: Path, device: str, dtype: str, available_bytes: int | None) -> None:
        self._folder = folder
        self._checkpoint = open_checkpoint(folder, may_be_quantized=True, may_be_partial=True)
        if self._checkpoint.quantization_config is not None:
            raise UsageError(f"The model in {folder} is quantized: such models are not parted.", WHOLE)
        self._plan = plan_loading(self._checkpoint, device, dtype, NONE)
        self._available_bytes = available_bytes
        text_config = self._plan.config.get_text_config(decoder=True)
        self._layers = int(text_config.num_hidden_layers)
        self._width = int(text_config.hidden_size)
        _check_parts(text_config)

    def part(self, first: int, last: int, cache: HashCache, progress: Progress | None) -> Part:
        if not 0 <= first <= last <= self._layers:
            raise UsageError(
                f"This model has no layers {first} to {last}: it has {self._layers}.",
                f"Name some of them as FIRST:LAST, from 0:1 to 0:{self._layers}; LAST is not among them.",
            )
        model = self._load(first, last)
        passage = Passage()
        layers = layers_of(model)
        for index, layer in enumerate(layers):
            layers[index] = Gate(index, layer if first <= index < last else None, passage)
        name = str(model.dtype).removeprefix("torch.")
        return Part(
            model=model,
            passage=passage,
            first=first,
            last=last,
            layers=self._layers,
            digest=digest(self._checkpoint, name, cache, progress),
            dtype=name,
            width=self._width,
            context_length=self._plan.context_length,
            memory_bytes=bytes_in_memory(model),
        )

    def sizes(self, cache: HashCache, progress: Progress | None) -> LayerSizes:
        elsewhere = set(self._checkpoint.weights) - set(self._checkpoint.present_weights)
        if elsewhere:
            raise UsageError(
                f"{self._folder} lacks {min(elsewhere).name}, and any layer may be asked for.",
                "Copy all files of the model there, or name the layers that are there with --layers FIRST:LAST.",
            )
        config, dtype = self._config(0, self._layers), self._torch_dtype()
        with torch.device("meta"):
            outline = _parted(config, lambda model: _take_out(model, 0, self._layers))(config)
        per_layer = [_count(layer) * dtype.itemsize for layer in layers_of(outline)]
        text = config.get_text_config(decoder=True)
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head_width = getattr(text, "head_dim", None) or self._width // text.num_attention_heads
        return LayerSizes(
            digest=digest(self._checkpoint, str(dtype).removeprefix("torch."), cache, progress),
            layers=self._layers,
            layer_bytes=max(per_layer),
            rest_bytes=_count(outline) * dtype.itemsize - sum(per_layer),
            kv_bytes=2 * heads * head_width * dtype.itemsize,
            state_bytes=self._width * dtype.itemsize,
            context_length=self._plan.context_length,
        )

    def _config(self, first: int, last: int) -> Any:
        config = copy.deepcopy(self._plan.config)
        if first < last:  # nothing to tie: neither is there
            config.tie_word_embeddings = config.get_text_config(decoder=True).tie_word_embeddings = False
        return config

    def _torch_dtype(self) -> torch.dtype:
        configured = self._plan.config.get_text_config(decoder=True).dtype or torch.float32
        found: torch.dtype = configured if self._plan.dtype == AUTO else getattr(torch, self._plan.dtype)
        return found

    def _load(self, first: int, last: int) -> Any:
        config = self._config(first, last)
        parted = _parted(config, lambda model: _take_out(model, first, last))
        try:
            self._check_memory(parted, config)
            with _quiet(), _with_what_is_here(self._checkpoint) as folder:
                model, found = parted.from_pretrained(
                    folder,
                    config=config,
                    dtype=self._plan.dtype,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                )
            if found["missing_keys"]:
                raise UsageError(
                    f"{self._folder} lacks tensors of what is to be run, such as {min(found['missing_keys'])}.",
                    "Copy the files there that model.safetensors.index.json names for them.",
                )
            return model.eval().to(self._plan.device)
        except torch.OutOfMemoryError as error:
            raise UsageError("These layers do not fit the device's memory.", "Take fewer with --layers.") from error
        except LOAD_ERRORS as error:
            raise UsageError(
                f"The weights in {self._folder} could not be loaded in part.", "Download or save the model again."
            ) from error

    def _check_memory(self, parted: Any, config: Any) -> None:
        with torch.device("meta"):
            outline = parted(config)
        needed = _count(outline) * self._torch_dtype().itemsize
        free = free_bytes(self._plan.device) if self._available_bytes is None else self._available_bytes
        check_bytes(needed, free)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _check_parts(config: Any) -> None:
    """Raises UsageError, with the reason, for a model whose layers cannot run on different machines."""
    reason = reason_against_packing(config)
    if reason is None and any(getattr(config, name, None) for name in _CROSSING):
        reason = "its layers need more than what the layer before them gives"
    if reason is not None:
        raise UsageError(f"This model cannot be parted: {reason}.", WHOLE)


def _parted(config: Any, take_out: Callable[[Any], None]) -> Any:
    """The model's own class, whose models are without what is not wanted from the moment they are made: no memory is
    taken for it, and its tensors are not read."""
    whole: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        whole.__init__(self, config, *args, **kwargs)
        take_out(self)

    return type(whole.__name__, (whole,), {"__init__": __init__, "__module__": whole.__module__})


def _take_out(model: Any, first: int, last: int) -> None:
    layers = layers_of(model)
    for index in range(len(layers)):
        if not first <= index < last:
            layers[index] = nn.Identity()
    if first < last:
        unwanted = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if id(child) in unwanted:
                    setattr(module, name, nn.Identity())


@contextmanager
def _with_what_is_here(checkpoint: Checkpoint) -> Iterator[Path]:
    """The model's folder; where some of its weights are elsewhere, one with all that is here, and an index of it."""
    here = {path.name for path in checkpoint.present_weights}
    if len(here) == len(checkpoint.weights):
        yield checkpoint.folder
        return
    with TemporaryDirectory(prefix="p2pnet-") as temporary:
        folder = Path(temporary)
        for path in checkpoint.folder.iterdir():
            if path.name != INDEX_FILE:
                (folder / path.name).symlink_to(path.resolve())
        index = json.loads((checkpoint.folder / INDEX_FILE).read_bytes())
        index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file in here}
        (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
        yield folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of tensors that are not read: they are left out on purpose."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
