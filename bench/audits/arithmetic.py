"""The logits of the same answers in different arithmetic: each way of computing them that a digest allows, and others
that it does not.

Of each place only the likeliest ids are kept, those of the first arithmetic: 512 of them have nearly all of the
probability, and a vocabulary of 262,144 would fill the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM

from p2pnet.worker.engine.kv_store import Kv
from p2pnet.worker.engine.memory import whole_blocks
from p2pnet.worker.engine.onednn import OneDnnLinear
from p2pnet.worker.engine.runner import Part, Runner, make_runner

CANDIDATES = 512
CHUNK = 64
GROUP = 32
"""Weights that share a scale, as in llama.cpp's q8_0 and q4_0."""

Logits = npt.NDArray[np.float32]
"""(places, candidates): all places of all answers, one after the other."""


@dataclass(frozen=True)
class Text:
    """An answer whose tokens are given, so that every arithmetic computes the same places."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.answer


Rows = Iterator[tuple[int, torch.Tensor]]
"""For each place, in the order of each text but not of the texts: the number of the text, and the logits."""


def decoded(runner: Runner, make_kv: Callable[[int], Kv], texts: Sequence[Text], batch: int) -> Rows:
    """As a worker computes an answer: token by token, beside others."""
    for first in range(0, len(texts), batch):
        together = list(enumerate(texts))[first : first + batch]
        kvs = {number: make_kv(len(text.ids)) for number, text in together}
        for number, text in together:
            for rows in _prefilled(runner, kvs[number], text.prompt, 1, len(text.prompt)):
                yield number, rows[-1]
        for place in range(len(texts[0].answer) - 1):
            parts = [
                Part(
                    [text.answer[place]],
                    len(text.prompt) + place,
                    kvs[number],
                    prompt_tokens=len(text.prompt),
                )
                for number, text in together
            ]
            for (number, _), rows in zip(together, runner.forward(parts), strict=True):
                yield number, rows[-1]


def prefilled(
    runner: Runner, make_kv: Callable[[int], Kv], texts: Sequence[Text], chunk: int = CHUNK, as_prompt: bool = False
) -> Rows:
    """As an auditor computes it: many places at once. `as_prompt` is for runners that compute prompts otherwise."""
    for number, text in enumerate(texts):
        prompt_tokens = len(text.ids) if as_prompt else len(text.prompt)
        for rows in _prefilled(runner, make_kv(len(text.ids)), text.ids[:-1], len(text.answer), prompt_tokens, chunk):
            yield from ((number, row) for row in rows)


def _prefilled(
    runner: Runner, kv: Kv, ids: Sequence[int], wanted: int, prompt_tokens: int, chunk: int = CHUNK
) -> Iterator[torch.Tensor]:
    first_wanted = len(ids) - wanted
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        rows = max(0, start + len(part) - max(start, first_wanted))
        (logits,) = runner.forward([Part(part, start, kv, rows, prompt_tokens)])
        if rows:
            yield logits


@torch.inference_mode()
def plain(model: Any, texts: Sequence[Text], before: Sequence[int] = ()) -> Rows:
    """By the model itself, with something before the prompt that the auditor does not know of."""
    for number, text in enumerate(texts):
        ids = torch.tensor([[*before, *text.ids[:-1]]])
        for row in model(input_ids=ids, use_cache=False).logits[0, -len(text.answer) :]:
            yield number, row


class Places:
    """The places of all texts, and the logits of their candidates."""

    def __init__(self, texts: Sequence[Text], reference: Rows) -> None:
        self._texts = texts
        self._ids: dict[int, list[torch.Tensor]] = {number: [] for number in range(len(texts))}
        self.reference = self._gathered(reference, self._note)

    def of(self, rows: Rows) -> Logits:
        return self._gathered(rows, lambda number, place, row: row[self._ids[number][place]])

    def _note(self, number: int, place: int, row: torch.Tensor) -> torch.Tensor:
        values, ids = row.topk(min(CANDIDATES, len(row)))
        self._ids[number].append(ids)
        return values

    def _gathered(self, rows: Rows, of: Callable[[int, int, torch.Tensor], torch.Tensor]) -> Logits:
        found: dict[int, list[torch.Tensor]] = {number: [] for number in range(len(self._texts))}
        for number, row in rows:
            found[number].append(of(number, len(found[number]), row.float()))
        stacked = torch.stack([row for number in found for row in found[number]])
        gathered: Logits = stacked.numpy().astype(np.float32)
        return gathered


# ---- honest arithmetic


def paged(tokens: int) -> Kv:
    return Kv(whole_blocks(tokens))


def load(folder: Path, dtype: torch.dtype) -> Any:
    factory: Any = AutoModelForCausalLM
    return factory.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()


def runner_of(folder: Path, dtype: torch.dtype = torch.float32, mkl: bool = False) -> Runner:
    model = load(folder, dtype)
    runner = make_runner(model)
    for module in model.modules() if mkl else ():
        if isinstance(module, OneDnnLinear):
            object.__setattr__(module, "__class__", torch.nn.Linear)
    return runner


def with_threads(threads: int, rows: Rows) -> Rows:
    """Computes with so many threads, and then with one again."""
    torch.set_num_threads(threads)
    yield from rows
    torch.set_num_threads(1)


def of_transformers(folder: Path, texts: Sequence[Text], two_threads: bool) -> tuple[Places, dict[str, Logits]]:
    """Each arithmetic that a worker with the digest of these files may compute in, float32 and bfloat16."""
    runner = runner_of(folder)
    places = Places(texts, decoded(runner, paged, texts, batch=8))
    found = {
        "float32 oneDNN, 8 decoded": places.reference,
        "float32 oneDNN, prefilled": places.of(prefilled(runner, paged, texts)),
    }
    if two_threads:
        found["float32 oneDNN, by 2 threads"] = places.of(with_threads(2, prefilled(runner, paged, texts, 512)))
    del runner
    runner = runner_of(folder, mkl=True)
    found["float32 MKL, 1 decoded"] = places.of(decoded(runner, paged, texts, batch=1))
    found["float32 MKL, prefilled"] = places.of(prefilled(runner, paged, texts))
    del runner
    runner = runner_of(folder, torch.bfloat16)
    found["bfloat16, 8 decoded"] = places.of(decoded(runner, paged, texts, batch=8))
    found["bfloat16, prefilled"] = places.of(prefilled(runner, paged, texts))
    if two_threads:
        found["bfloat16, by 2 threads"] = places.of(with_threads(2, prefilled(runner, paged, texts, 512)))
    return places, found


def of_gguf(path: Path, texts: Sequence[Text], two_threads: bool) -> tuple[Places, dict[str, Logits]]:
    """The same for a GGUF file."""
    with GgufRunner(path, threads=1) as one:
        places = Places(texts, decoded(one.runner, one.open, texts, batch=7))
        found = {
            "GGUF, 7 decoded": places.reference,
            "GGUF, scored": places.of(one.each(texts, prefilled)),
            "GGUF, scored as a prompt": places.of(one.each(texts, partial(prefilled, as_prompt=True))),
        }
    if two_threads:
        with GgufRunner(path, threads=2) as two:
            found["GGUF, by 2 threads"] = places.of(two.each(texts, prefilled))
    return places, found


class GgufRunner:
    """A file's model, and memory for some sequences."""

    def __init__(self, path: Path, threads: int) -> None:
        from p2pnet.worker.gguf.context import Context
        from p2pnet.worker.gguf.model import LlamaModel
        from p2pnet.worker.gguf.rows import CPU_LIMITS
        from p2pnet.worker.gguf.runner import LlamaRunner, LlamaStore

        cells, sequences = 8192, 8
        context = Context(LlamaModel(path), cells + 256, CPU_LIMITS.max_rows, threads, sequences + 1)
        self._store = LlamaStore(context, cells, sequences)
        self.runner = LlamaRunner(context, goes_back=True, limits=CPU_LIMITS, spare_sequence=sequences)
        self._open: list[Kv] = []

    def __enter__(self) -> GgufRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def open(self, tokens: int) -> Kv:
        if len(self._open) == 7:
            self._close()
        kv = self._store.open(tokens)
        assert kv is not None
        self._open.append(kv)
        return kv

    def each(self, texts: Sequence[Text], compute: Callable[..., Rows]) -> Rows:
        return compute(self.runner, self.open, texts)

    def _close(self) -> None:
        while self._open:
            self._store.close(self._open.pop())


# ---- dishonest arithmetic


def of_cheats(folder: Path, texts: Sequence[Text], places: Places, other_prompt: Sequence[int]) -> dict[str, Logits]:
    """What a worker computes that runs something else than the digest names."""
    model = load(folder, torch.float32)
    found = {"another prompt": places.of(plain(model, texts, other_prompt))}
    layers = model.model.layers
    middle = len(layers) // 2
    model.model.layers = layers[:middle] + layers[middle + max(1, len(layers) // 9) :]
    found["a cheaper model: every ninth layer's worth left out"] = places.of(plain(model, texts))
    for bits in (8, 4):
        model = load(folder, torch.float32)
        round_weights(model, bits)
        found[f"{bits}-bit weights"] = places.of(plain(model, texts))
    return found


@torch.inference_mode()
def round_weights(model: Any, bits: int) -> None:
    """Round to the nearest of 2^bits - 1 steps, each group of weights with a scale of its own. The table of tokens, and
    what makes the logits, stay: so it is told apart less easily than a file that rounds them too."""
    top = 2 ** (bits - 1) - 1
    for layer in model.model.layers:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                groups = module.weight.view(-1, GROUP)
                scale = groups.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / top
                groups.copy_((groups / scale).round() * scale)
