"""Runs a model: some new tokens of several sequences in one forward pass. Knows nothing of sampling or scheduling.

Two ways: packed, for models that let their attention be replaced; and one sequence after the other with the model's
own cache, for all others. `make_runner` tries the first on the model at hand and falls back to the second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import torch
from transformers import DynamicCache

from p2pnet.worker.engine.attention import IMPLEMENTATION, PackedSpan, UnsupportedAttention, packed
from p2pnet.worker.engine.kv_store import Kv
from p2pnet.worker.engine.memory import whole_blocks
from p2pnet.worker.engine.onednn import use_onednn

logger = logging.getLogger(__name__)

KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})
FIXED_ROTATIONS = frozenset({"default", "linear", "yarn", "llama3", "proportional"})
"""Rotary embeddings whose angles do not depend on how long the longest sequence of a forward pass is."""

CHECK_TOKENS = 24
CHECK_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""How far packed logits may be from the model's own, relative to their spread: far above rounding, far below a wrong
mask or position."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some new tokens of one sequence.

    `logits` is for how many of the last tokens logits are wanted. `prompt_tokens` is how many of the sequence's tokens
    are its prompt; None is all up to these.
    """

    ids: Sequence[int]
    start: int
    kv: Kv
    logits: int = 1
    prompt_tokens: int | None = None


class Runner(Protocol):
    """Computes parts, and stores their keys and values in their Kv."""

    @property
    def is_packed(self) -> bool:
        """Whether parts are computed together. Then a part may be computed again, which overwrites what it stored, and
        one sequence's keys and values may be copied to another."""

    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """For each part the logits (part.logits, vocabulary) of its last tokens. Raises what torch raises."""


@runtime_checkable
class Pipelined(Runner, Protocol):
    """A runner of which several steps may be under way at the same time, of different sequences."""

    @property
    def lanes(self) -> int:
        """How many steps are worth having under way."""

    def begin(self, parts: Sequence[Part]) -> Callable[[], list[torch.Tensor]]:
        """Begin with a step. What is returned is called once, in the order in which the steps have begun: it waits for
        the step, and returns and raises what `forward` does."""


class PackedRunner:
    """Runs all parts in one row of tokens."""

    is_packed = True

    def __init__(self, model: Any) -> None:
        self._model = model
        self._can_choose_rows = "logits_to_keep" in signature(model.forward).parameters
        model.set_attn_implementation(IMPLEMENTATION)
        use_onednn(model)

    @torch.inference_mode()
    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        device = self._model.device
        ids = [token_id for part in parts for token_id in part.ids]
        positions = [position for part in parts for position in range(part.start, part.start + len(part.ids))]
        spans: list[PackedSpan] = []
        rows: list[int] = []
        first = 0
        for part in parts:
            last = first + len(part.ids)
            spans.append(PackedSpan(first, last, part.start, part.kv))
            rows.extend(range(last - part.logits, last))
            first = last
        options = {"logits_to_keep": torch.tensor(rows or [0], device=device)} if self._can_choose_rows else {}
        with packed(spans):
            output = self._model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                **options,
            )
        logits = output.logits[0] if self._can_choose_rows else output.logits[0, rows]
        scores = logits[: len(rows)].to("cpu", torch.float32)  # one transfer for the whole step
        return list(scores.split([part.logits for part in parts]))


class NoCache(ValueError):
    """The model does not go on from keys and values that it has computed. Found out by trying: what the parameter is
    called differs between models, and between versions of transformers."""


class SequentialRunner:
    """Runs one sequence after the other, each with a cache of the model's own kind, which stays with its Kv."""

    is_packed = False

    def __init__(self, model: Any) -> None:
        self._model = model
        self._can_choose_rows = "logits_to_keep" in signature(model.forward).parameters

    @torch.inference_mode()
    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        return [self._forward(part) for part in parts]

    def _forward(self, part: Part) -> torch.Tensor:
        if part.start == 0 or part.kv.cache is None:
            part.kv.cache = DynamicCache(config=self._model.config)
        options = {"logits_to_keep": max(1, part.logits)} if self._can_choose_rows else {}
        output = self._model(
            input_ids=torch.tensor([list(part.ids)], device=self._model.device),
            past_key_values=part.kv.cache,
            use_cache=True,
            **options,
        )
        logits: torch.Tensor = output.logits[0]
        return logits[len(logits) - part.logits :]


def make_runner(model: Any) -> Runner:
    """The fastest runner that gives what the model itself gives.

    Raises ValueError when there is none, or what torch raises when the model does not run.
    """
    prompts = _check_prompts(model)
    expected = [_plain_logits(model, prompt) for prompt in prompts]
    if not all(bool(torch.isfinite(logits).all()) for logits in expected):
        raise ValueError("its logits are not numbers")
    reason = reason_against_packing(model.config.get_text_config(decoder=True))
    if reason is None:
        own_attention = model.config._attn_implementation
        try:
            runner = PackedRunner(model)
            reason = difference(expected, _logits_in_pieces(runner, prompts))
        except (
            UnsupportedAttention,
            RuntimeError,
            TypeError,
            ValueError,
            AttributeError,
            KeyError,
            IndexError,
        ) as error:
            reason = f"it refuses packed sequences ({error})"
        if reason is None:
            return runner
        model.set_attn_implementation(own_attention)
    logger.info("this model runs one sequence at a time, since %s", reason)
    return _sequential_runner(model, expected, prompts)


def _sequential_runner(model: Any, expected: list[torch.Tensor], prompts: list[list[int]]) -> SequentialRunner:
    """A SequentialRunner, once it has been shown to work. Some models do not keep what they need in the cache they are
    given: they would go on as if each piece were a prompt of its own."""
    runner = SequentialRunner(model)
    try:
        off = difference(expected, _logits_in_pieces(runner, prompts))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise NoCache(f"it takes no cache: {error}") from error
    if off is not None:
        raise NoCache(f"it does not go on from its cache: {off}")
    return runner


def kv_bytes_per_token(runner: Runner, model: Any) -> int:
    """What one token's keys and values take in all layers together, measured on a few tokens. Never 0."""
    kv = Kv(whole_blocks(CHECK_TOKENS))
    runner.forward([Part(_check_prompts(model)[0], 0, kv)])
    if kv.cache is None:
        tensors = [tensor[:, :1] for layer in kv.layers.values() for tensor in layer]
    else:
        layers = (layer for layer in kv.cache.layers if getattr(layer, "keys", None) is not None)
        tensors = [tensor[:, :, :1] for layer in layers for tensor in (layer.keys, layer.values)]
    return max(1, sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def reason_against_packing(config: Any) -> str | None:
    """Why this model cannot be packed, if a short check would not show it."""
    others = set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS
    if others:
        return f"it has {min(others)} layers"
    if getattr(config, "attention_chunk_size", None):
        return "its attention is chunked"
    rotations = getattr(config, "rope_parameters", None) or {}
    by_layer = rotations.values() if all(isinstance(value, dict) for value in rotations.values()) else [rotations]
    types = {rotation.get("rope_type", "default") for rotation in by_layer if isinstance(rotation, dict)}
    if types - FIXED_ROTATIONS:
        return f"its positions are {min(types - FIXED_ROTATIONS)}"
    return None


def _check_prompts(model: Any) -> list[list[int]]:
    """Two prompts of different lengths, ids spread over the vocabulary."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    return [
        [(seed * 7919 + 31 * index * index) % vocabulary for index in range(length)]
        for seed, length in ((1, CHECK_TOKENS), (2, CHECK_TOKENS - 5))
    ]


@torch.inference_mode()
def _plain_logits(model: Any, prompt: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([prompt], device=model.device), use_cache=False).logits[0, -1]
    return logits


def _logits_in_pieces(runner: Runner, prompts: list[list[int]]) -> list[torch.Tensor]:
    """The logits of each prompt's last token, computed side by side in uneven pieces, the last of one token."""
    kvs = [Kv(whole_blocks(CHECK_TOKENS)) for _ in prompts]
    found: list[torch.Tensor] = []
    for piece in range(4):
        parts = []
        for prompt, kv in zip(prompts, kvs, strict=True):
            ends = (0, 5, 11, len(prompt) - 1, len(prompt))
            parts.append(Part(prompt[ends[piece] : ends[piece + 1]], ends[piece], kv))
        found = [logits[-1] for logits in runner.forward(parts)]
    return found


def difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> str | None:
    for one, other in zip(expected, found, strict=True):
        spread = float((one.float() - one.float().mean()).abs().max()) or 1.0
        off = float((one.float() - other.float()).abs().max()) / spread
        if not off <= CHECK_TOLERANCE.get(one.dtype, CHECK_TOLERANCE[torch.bfloat16]):
            return f"computed in pieces, its logits change by {off:.1%}"
    return None
