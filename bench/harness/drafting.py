"""A small model that is right about a wanted share of a large one's tokens: a copy with noise in its weights.

Measured as a driver would find it: with the noise of the answer's sampler at each place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from p2pnet.messages import GenerateRequest, TextDelta, TextPrompt
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.engine.sampler import Sampler

NOISES = tuple(number / 25 for number in range(1, 17))
"""Of a weight's spread in its matrix: from nearly the same model to one that is seldom right."""


def save_draft(large: Path, folder: Path, cache: Path, requests: Sequence[GenerateRequest], wanted: float) -> float:
    """Save a model that is right about so many of the tokens of these answers to texts, as nearly as may be. Returns of
    how many it is."""
    answers = asyncio.run(_answers(large, cache, requests))
    tokenizer: Any = AutoTokenizer.from_pretrained(large)
    tokenizer.save_pretrained(folder)

    def agreement(noise: float) -> float:
        model, rights = _noisy(large, noise), list[bool]()
        for request, answer in zip(requests, answers, strict=True):
            assert isinstance(request.prompt, TextPrompt)
            rights += _rights(model, request, tokenizer(request.prompt.text)["input_ids"], answer)
        return sum(rights) / len(rights)

    found = {noise: agreement(noise) for noise in NOISES}
    best = min(NOISES, key=lambda noise: abs(found[noise] - wanted))
    _noisy(large, best).save_pretrained(folder)
    return found[best]


def _noisy(large: Path, noise: float) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(large)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter += torch.randn_like(parameter) * parameter.std() * noise
    return model.eval()


async def _answers(large: Path, cache: Path, requests: Sequence[GenerateRequest]) -> list[list[int]]:
    backend = await TransformersBackend.from_spec(
        str(large), now_ms=lambda: 0, served_name=requests[0].model, cache_dir=cache
    )
    found = []
    for request in requests:
        async with aclosing(backend.generate(request)) as events:
            found.append([token async for event in events if isinstance(event, TextDelta) for token in event.token_ids])
    await backend.close()
    return found


@torch.inference_mode()
def _rights(model: Any, request: GenerateRequest, prompt: Sequence[int], answer: Sequence[int]) -> list[bool]:
    """Of each token of an answer, whether this model would have said it."""
    ids = [*prompt, *answer]
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    sampler = Sampler(request.sampling, len(prompt))
    return [sampler.choose(logits[at - 1], ids[:at]) == ids[at] for at in range(len(prompt), len(ids))]
