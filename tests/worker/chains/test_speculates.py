"""Guesses change no answer, whatever they are and whatever happens to the stages; right ones save passes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import torch

from p2pnet.answer_forms import JsonSchemaFormat, RegexFormat
from p2pnet.messages import GenerateRequest, Sampling, TokenPrompt
from p2pnet.worker.chains.chains import ChainTimes
from tests.checkpoints import build_checkpoint
from tests.depth import scaled
from tests.stories import ask
from tests.worker.chains.chain_swarm import Answer, ChainSwarm, answer, answers, chain_swarm
from tests.worker.speculation.guessing import Guess, Guessing, mixed, right, wrong

LAYERS = 3
VOCABULARY = 480
LOGPROB_TOLERANCE = 1e-3
PATIENT = ChainTimes(heal_s=10, retry_s=0.01, avoid_s=0.2, step_s=5.0)
SCHEMA = (
    '{"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": false}'
)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
async def swarm(folder: Path) -> AsyncIterator[ChainSwarm]:
    async with chain_swarm(folder, folder.parent) as swarm:
        yield swarm


@dataclass
class Passes:
    """How many tokens each pass of a stage had."""

    tokens: list[int] = field(default_factory=list)

    def __call__(self, number: int, row: torch.Tensor) -> None:
        self.tokens.append(len(row))


def random_request(rng: random.Random) -> GenerateRequest:
    prompt = tuple(rng.randrange(5, 60) for _ in range(rng.randint(1, 12))) * rng.randint(1, 6)
    sampling = Sampling(
        seed=rng.randrange(1000),
        temperature=rng.choice((0.0, 0.3, 0.8, 1.5)),
        top_k=rng.choice((0, 0, 20)),
        top_p=rng.choice((1.0, 0.9)),
        repetition_penalty=rng.choice((1.0, 1.0, 1.3)),
        presence_penalty=rng.choice((0.0, 0.0, 0.8)),
        frequency_penalty=rng.choice((0.0, 0.0, -0.5)),
        logit_bias=rng.choice(({}, {rng.randrange(VOCABULARY): 4.0})),
    )
    return msgspec.structs.replace(
        ask("model", "", max_tokens=rng.randint(1, 24), sampling=sampling),
        prompt=TokenPrompt(prompt),
        response_format=rng.choice((None, None, RegexFormat("[0-9]{3}-[a-z]{2,9}"), JsonSchemaFormat(SCHEMA))),
        stop=rng.choice(((), (), ("e", "th"))),
        min_tokens=rng.choice((0, 0, 5)),
        ignore_eos=rng.random() < 0.5,
        logprobs=rng.choice((None, 0, 2)),
        echo=rng.random() < 0.2,
    )


def prompt_of(request: GenerateRequest) -> tuple[int, ...]:
    assert isinstance(request.prompt, TokenPrompt)
    return request.prompt.token_ids


def said(requests: Sequence[GenerateRequest], given: Sequence[Answer]) -> list[tuple[int, ...]]:
    """Prompts and answers. An echo has the prompt already."""
    return [
        found.ids if request.echo else prompt_of(request) + found.ids
        for request, found in zip(requests, given, strict=True)
    ]


def guesses(kind: str, whole: Sequence[Sequence[int]], rng: random.Random) -> Guess:
    known, nonsense = right(whole), wrong(VOCABULARY, rng)
    return {"right": known, "mixed": mixed(known, nonsense, 0.4, rng), "wrong": nonsense}[kind]


def assert_same(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    assert list(found) == list(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=LOGPROB_TOLERANCE)


@pytest.mark.parametrize("kind", ["right", "mixed", "wrong", "looked up"])
@pytest.mark.parametrize("seed", range(scaled(1, 40)))
async def test_whatever_is_guessed_answers_are_those_of_the_whole_model(
    swarm: ChainSwarm, kind: str, seed: int
) -> None:
    rng = random.Random(f"{kind} {seed}")
    for first, last in ((0, 2), (2, LAYERS)):
        await swarm.stage(f"{first}", first, last)
    whole = await swarm.whole()
    asked = [random_request(rng) for _ in range(12)]
    expected = await answers(whole, asked)
    guessing = None if kind == "looked up" else Guessing(guesses(kind, said(asked, expected), rng))
    driver = await swarm.driver(speculation=guessing)
    assert_same(await answers(driver, asked), expected)
    assert_same([await answer(driver, request) for request in asked[:3]], expected[:3])
    assert guessing is None or (guessing.drafted > 0 and not guessing.jobs)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_right_guesses_save_passes(swarm: ChainSwarm, temperature: float) -> None:
    request = ask(
        "model", "Once upon a time", max_tokens=24, ignore_eos=True, sampling=Sampling(seed=3, temperature=temperature)
    )
    request = msgspec.structs.replace(request, prompt=TokenPrompt((1, 7, 9, 12)))
    expected = await answer(await swarm.whole(), request)
    passes = Passes()
    await swarm.stage("all", 0, LAYERS, before=passes)
    driver = await swarm.driver(speculation=Guessing(right(said([request], [expected]), most=5)))
    assert await answer(driver, request) == expected
    assert passes.tokens == [4, 6, 6, 6, 5]  # the prompt gives one token, then each pass six


async def test_a_wrong_guess_is_computed_over(swarm: ChainSwarm) -> None:
    """What follows it is dropped at the stages, by its position: each pass gives one token, and the same one."""
    request = msgspec.structs.replace(
        ask("model", "", max_tokens=6, ignore_eos=True, sampling=Sampling(seed=1)), prompt=TokenPrompt((1, 7, 9))
    )
    expected = await answer(await swarm.whole(), request)
    unlike = [(token_id + 1) % VOCABULARY for token_id in (1, 7, 9, *expected.ids)]
    passes = Passes()
    await swarm.stage("all", 0, LAYERS, before=passes)
    driver = await swarm.driver(speculation=Guessing(lambda ids, room: unlike[len(ids) : len(ids) + min(room, 3)]))
    assert await answer(driver, request) == expected
    assert passes.tokens == [3, 4, 4, 3, 2, 1]  # of the last token nothing is guessed


@pytest.mark.parametrize("kind", ["mixed", "looked up"])
@pytest.mark.parametrize("seed", range(scaled(1, 40)))
async def test_stages_that_die_in_mid_answer_change_nothing_of_it(swarm: ChainSwarm, kind: str, seed: int) -> None:
    rng = random.Random(f"deaths {kind} {seed}")
    loop = asyncio.get_running_loop()
    spans = [(0, rng.randint(1, 2)), (rng.randint(0, 1), LAYERS)]
    deaths = [rng.randint(2, 9) for _ in range(4)]

    async def come(first: int, last: int) -> None:
        name = f"stage {len(swarm.sites)}"
        dies_at = deaths.pop() if deaths else 0

        async def die() -> None:
            await come(first, last)
            await swarm.sites[name].kill()

        def before(number: int, row: torch.Tensor) -> None:
            if number == dies_at:
                asyncio.run_coroutine_threadsafe(die(), loop)

        await swarm.stage(name, first, last, before=before)

    for span in spans:
        await come(*span)
    asked = [random_request(rng) for _ in range(5)]
    expected = await answers(await swarm.whole(), asked)
    guessing = None if kind == "looked up" else Guessing(guesses(kind, said(asked, expected), rng))
    driver = await swarm.driver(times=PATIENT, speculation=guessing)
    assert_same(await answers(driver, asked), expected)


async def test_a_driver_with_a_model_for_drafts_answers_as_without(swarm: ChainSwarm) -> None:
    """The same model as the large one, which is right all the time: an answer takes fewer passes than it has tokens."""
    passes = Passes()
    await swarm.stage("all", 0, LAYERS, before=passes)
    driver = await swarm.driver(draft=str(swarm.folder))
    asked = [ask("model", text, max_tokens=24, ignore_eos=True, sampling=Sampling(seed=2)) for text in ("a", "b c")]
    assert await answers(driver, asked) == await answers(await swarm.whole(), asked)
    assert len(passes.tokens) < 24
