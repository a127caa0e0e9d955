"""Calibrates what may be believed of margins: how large honest ones are, and how soon dishonest ones are told apart.

    python -m bench.audits [--model FOLDER | --gguf FILE [--dequantized]] [--answers N] [--tokens N] [--seeds N]

Without a model, that which ships. With --dequantized, a file's weights as transformers computes them, where `gguf` is
installed. Answers are sampled by the model itself; at each of their places tokens are drawn by one arithmetic with many
seeds, and judged by another. Counts alone: other work on the machine changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.audits.arithmetic import GgufRunner, Logits, Places, Text, decoded, of_cheats, of_gguf, of_transformers
from bench.audits.draws import Margins, margins, nucleus_margins
from bench.gguf import FLIP_PROMPTS
from gateway.audits.evidence import EXACT, LOG_FLAGGED, QUANTIZED, ROUNDED, Calibration
from p2pnet.messages import GenerateRequest, Sampling, TextDelta, TextPrompt
from p2pnet.worker.backends.engine_backend import EngineBackend, EngineOptions
from p2pnet.worker.backends.gguf import GgufBackend
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import find_folder, load_model
from p2pnet.worker.gguf.loading import load_gguf

LAMBDAS = (2.0, 4.0, 8.0, 16.0, 32.0)
TEMPERATURES = {1.0: 1.0, 0.7: 0.25, 0.0: 0.0}
"""And the share of the seeds with which tokens are drawn."""
CHEAP_SHARE = 10
BEFORE = "You are a pirate. Answer every question in the voice of a pirate, and mention the sea."
PROMPTS = (
    *FLIP_PROMPTS,
    "What is the best way to learn a language?",
    "List three facts about the moon:",
    "import numpy as np\n\ndef mean(values):",
    "Il était une fois",
    "Q: How do plants make food?\nA:",
    "The weather in the mountains",
    "Recipe for pancakes:\n1.",
    "To prove that the square root of two is irrational,",
)


def evidence(found: Margins, calibration: Calibration) -> Margins:
    """The logarithm of the evidence after each token of each seed's answers, one after the other. A gateway that does
    not know when a fraud has begun needs a few more: see `gateway.audits.evidence`."""
    total: Margins = np.cumsum(calibration.weight * found.astype(np.float64) - calibration.cost, axis=0)
    return total


def tokens_until_flagged(found: Margins, calibration: Calibration) -> list[float]:
    """For each seed: infinite where these answers were not enough."""
    is_flagged = evidence(found, calibration) >= LOG_FLAGGED
    first = np.where(is_flagged.any(axis=0), is_flagged.argmax(axis=0) + 1.0, np.inf)
    return [float(count) for count in first]


Pair = tuple[str, str]
"""Who gave the answer, and who scores it."""


@dataclass(frozen=True)
class Kind:
    """A kind of arithmetic, what evidence weighs there, and pairs that are honest."""

    name: str
    calibration: Calibration
    """Lambda, and c of each token, as a gateway has them."""
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Cost:
    """What a token has to cost for honest answers to gain nothing on average: of tokens one by one, of whole answers,
    and of the answers to the worst prompt alone."""

    token: float
    answer: float
    worst: float

    @classmethod
    def of(cls, found: Margins, weight: float, tokens: int) -> Cost:
        sums = found.astype(np.float64).reshape(-1, tokens, found.shape[1]).sum(axis=1)
        of_answers = np.exp(weight * sums)
        return cls(
            math.log(float(np.exp(weight * found.astype(np.float64)).mean())),
            math.log(float(of_answers.mean())) / tokens,
            math.log(float(of_answers.mean(axis=1).max())) / tokens,
        )


def drawn(server: Logits, auditor: Logits, seeds: int) -> Iterator[tuple[str, Margins]]:
    for temperature, share in TEMPERATURES.items():
        yield f"T {temperature:g}", margins(server, auditor, max(1, int(share * seeds)), temperature)
    yield (
        "T 1, top_p 0.9",
        nucleus_margins(server, auditor, max(1, seeds // 32), lambda seed: Sampling(seed, top_p=0.9)),
    )


def honest(console: Console, kinds: Mapping[str, Logits], kind: Kind, given: Any) -> None:
    sizes = Table(
        "server", "auditor", "sampling", "tokens", "not 0, of 1,000", "mean, of 10^-6", "most", title="honest"
    )
    answers = Table("server", "auditor", "sampling", "answers", "99 %", "99.9 %", "most", title="sums of whole answers")
    costs = Table("server", "auditor", "sampling", *(f"lambda {each:g}" for each in LAMBDAS), title="c, of 10^-6")
    alarms = Table("server", "auditor", "sampling", "tokens", "most evidence ever, of 13.8", "flagged", title="alarms")
    for server, auditor in (pair for pair in kind.pairs if pair[1] in kinds):
        for sampling, found in drawn(kinds[server], kinds[auditor], given.seeds):
            names = (server, auditor, sampling)
            sums = found.reshape(-1, given.tokens, found.shape[1]).sum(axis=1).ravel()
            share, mean = 1000 * float((found > 0).mean()), 1e6 * float(found.mean())
            sizes.add_row(*names, f"{found.size:,}", f"{share:.3f}", f"{mean:.2f}", f"{float(found.max()):.5f}")
            quantiles = [f"{float(np.quantile(sums, share)):.5f}" for share in (0.99, 0.999, 1.0)]
            answers.add_row(*names, f"{sums.size:,}", *quantiles)
            each = [Cost.of(found, weight, given.tokens) for weight in LAMBDAS]
            cells = (f"{1e6 * cost.token:.0f} / {1e6 * cost.answer:.0f} / {1e6 * cost.worst:.0f}" for cost in each)
            costs.add_row(*names, *cells)
            most = evidence(found, kind.calibration).max(axis=0)
            flagged = f"{int((most >= LOG_FLAGGED).sum())} of {len(most)}"
            alarms.add_row(*names, f"{found.size:,}", f"{float(most.max()):.2f}", flagged)
    console.print(sizes, answers, costs, alarms)


def cheats(console: Console, auditor: Logits, others: Mapping[str, Logits], kind: Kind, given: Any) -> None:
    seeds = min(given.seeds, 64)
    right = margins(auditor, auditor, seeds)
    ways = {name: margins(server, auditor, seeds) for name, server in others.items()}
    ways["a wrong seed"] = margins(auditor, auditor, seeds, served_seed=2)
    ways["temperature 0.8 for 1"] = margins(auditor, auditor, seeds, served_temperature=0.8)
    ways["greedy for temperature 1"] = margins(auditor, auditor, seeds, served_temperature=0.0)
    ends = right.copy()
    ends[given.tokens // 2 - 1 :: given.tokens // 2] = 0.5
    ways[f"cut short after {given.tokens // 2} tokens"] = ends
    cheapest = next((name for name in ways if name.startswith("a cheaper model")), None)
    if cheapest is not None:
        mixed = right.copy().reshape(-1, given.tokens, seeds)
        cheap = ways[cheapest].reshape(mixed.shape)
        mixed[::CHEAP_SHARE] = cheap[::CHEAP_SHARE]
        repeated = np.concatenate([np.roll(mixed, shift, axis=0) for shift in range(CHEAP_SHARE)])
        ways[f"{cheapest}, for every tenth answer"] = repeated.reshape(-1, seeds)
    table = Table("cheat", "mean margin", "tokens until flagged: median", "90 %", "most", title="dishonest workers")
    for name, found in ways.items():
        counts = sorted(tokens_until_flagged(found, kind.calibration))
        shown = [counts[len(counts) // 2], counts[int(len(counts) * 0.9)], counts[-1]]
        cells = (f"{count:.0f}" if math.isfinite(count) else f"over {len(found)}" for count in shown)
        table.add_row(name, f"{float(found.mean()):.4f}", *cells)
    console.print(table)


# ---- answers


async def answers(backend: EngineBackend, tokenizer: Any, count: int, tokens: int) -> list[Text]:
    """Sampled by the model, with another prompt or seed each."""

    async def one(number: int) -> Text:
        request = GenerateRequest(
            "r",
            "m",
            TextPrompt(PROMPTS[number % len(PROMPTS)]),
            sampling=Sampling(seed=number),
            max_tokens=tokens,
            ignore_eos=True,
        )
        ids: list[int] = []
        async with aclosing(backend.generate(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    ids += event.token_ids
        prompt = tokenizer(PROMPTS[number % len(PROMPTS)])["input_ids"]
        return Text(tuple(prompt), tuple(ids))

    found = await asyncio.gather(*map(one, range(count)))
    await backend.close()
    return [text for text in found if len(text.answer) == tokens]


def folder_of(path: Path, folder: Path) -> Path:
    """A file's weights as a checkpoint in float32: transformers reads them where `gguf` is installed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.hf_quantizer = model.quantization_method = None  # its weights are plain numbers now, and may be written
    model.is_quantized = False
    del model.config.quantization_config
    model.save_pretrained(folder)
    return folder


def of_files(path: Path, texts: Sequence[Text], places: Places, folder: Path) -> dict[str, Logits]:
    """A file's weights with fewer bits, as llama.cpp makes them, computed as a worker computes them."""
    import llama_cpp

    found = {}
    for name in ("Q4_0", "Q3_K_M"):
        made = folder / f"{name}.gguf"
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
        params.allow_requantize = True
        params.nthread = 1
        assert llama_cpp.llama_model_quantize(str(path).encode(), str(made).encode(), params) == 0
        with GgufRunner(made, threads=1) as runner:
            found[f"{name} for {path.stem.rpartition('-')[2]}"] = places.of(
                decoded(runner.runner, runner.open, texts, 7)
            )
        made.unlink()
    return found


def shown(console: Console, kinds: Mapping[str, Logits], kind: Kind, others: Mapping[str, Logits], given: Any) -> None:
    console.rule(f"{kind.name}: lambda {kind.calibration.weight:g}, c {kind.calibration.cost:g}")
    honest(console, kinds, kind, given)
    cheats(console, kinds[kind.pairs[0][1]], others, kind, given)


FLOAT32 = Kind(
    "float32",
    EXACT,
    (
        ("float32 oneDNN, 8 decoded", "float32 oneDNN, prefilled"),
        ("float32 oneDNN, 8 decoded", "float32 oneDNN, by 2 threads"),
        ("float32 oneDNN, 8 decoded", "float32 MKL, prefilled"),
        ("float32 MKL, 1 decoded", "float32 oneDNN, prefilled"),
    ),
)
BFLOAT16 = Kind(
    "bfloat16",
    ROUNDED,
    (
        ("bfloat16, 8 decoded", "bfloat16, prefilled"),
        ("bfloat16, 8 decoded", "bfloat16, by 2 threads"),
        ("float32 oneDNN, 8 decoded", "bfloat16, prefilled"),
    ),
)
GGUF = Kind(
    "GGUF",
    QUANTIZED,
    (
        ("GGUF, 7 decoded", "GGUF, scored"),
        ("GGUF, 7 decoded", "GGUF, by 2 threads"),
        ("GGUF, 7 decoded", "GGUF, scored as a prompt"),
    ),
)


def kept(path: Path | None) -> dict[str, dict[str, Logits]]:
    found: dict[str, dict[str, Logits]] = {}
    if path is not None and path.exists():
        for key, rows in np.load(path).items():
            group, _, name = key.partition("/")
            found.setdefault(group, {})[name] = rows
    return found


def keep(path: Path | None, found: Mapping[str, Mapping[str, Logits]]) -> None:
    arrays: dict[str, Any] = {f"{group}/{name}": rows for group, kinds in found.items() for name, rows in kinds.items()}
    if path is not None:
        np.savez(path, **arrays)


def computed(given: Any) -> dict[str, dict[str, Logits]]:
    """The logits of each arithmetic, by its name, honest ones and others."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        made = Path(place)
        if given.gguf and not given.dequantized:
            return asyncio.run(of_a_file(given, made))
        folder = given.model or (folder_of(given.gguf, made) if given.gguf else find_folder("tiny"))
        return asyncio.run(of_a_folder(given, folder))


async def of_a_file(given: Any, made: Path) -> dict[str, dict[str, Logits]]:
    loaded = load_gguf(given.gguf, "cpu", HashCache(made))
    backend = GgufBackend(loaded, "m", lambda: 0, EngineOptions(threads=1, context_tokens=1024))
    texts = await answers(backend, loaded.tokenizer, given.answers, given.tokens)
    places, kinds = of_gguf(given.gguf, texts, given.two_threads)
    keep(given.logits, {"file": kinds})
    return {"file": kinds, "other than the file": of_files(given.gguf, texts, places, made)}


async def of_a_folder(given: Any, folder: Path) -> dict[str, dict[str, Logits]]:
    loaded = load_model(folder, "cpu", "float32", HashCache(Path(tempfile.gettempdir())))
    backend = TransformersBackend(loaded, "m", lambda: 0, EngineOptions(context_tokens=1024))
    texts = await answers(backend, loaded.tokenizer, given.answers, given.tokens)
    places, kinds = of_transformers(folder, texts, given.two_threads)
    before = loaded.tokenizer(BEFORE)["input_ids"]
    return {"checkpoint": kinds, "other than the checkpoint": of_cheats(folder, texts, places, before)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--dequantized", action="store_true", help="the file's weights as transformers computes them")
    parser.add_argument(
        "--two-threads", action="store_true", help="as well: they wait for one another on a busy machine"
    )
    parser.add_argument("--answers", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=512)
    parser.add_argument("--logits", type=Path, help="where they are kept, and read again if they are there")
    given = parser.parse_args()
    console = Console(width=180)
    found = kept(given.logits) or computed(given)
    keep(given.logits, found)
    if "file" in found:
        shown(console, found["file"], GGUF, found.get("other than the file", {}), given)
    else:
        shown(console, found["checkpoint"], FLOAT32, found["other than the checkpoint"], given)
        shown(console, found["checkpoint"], BFLOAT16, found["other than the checkpoint"], given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
