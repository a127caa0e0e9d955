"""A worker may give the right ids and send another text: whoever scores them reads the text from the ids itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
import torch

from p2pnet.messages import ChatPrompt, GenerateRequest, Message, Sampling, TextDelta, ToolCallDelta
from p2pnet.score_messages import MAX_MARGIN, Scored, ScoreRequest, text_hash
from p2pnet.worker.backends.engine_backend import EngineBackend
from p2pnet.worker.engine.scheduler import SchedulerLimits
from tests.depth import scaled
from tests.worker.answers import Models, answer, ask, events_of, serve
from tests.worker.engine.test_resume_anywhere import TOOL_TEMPLATE, WEATHER
from tests.worker.engine.test_scoring import AUDITOR_CHUNK, GREEDY, HOT, REQUESTS, Site, stops_in


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(params=scaled(ci=("tiny",), deep=("tiny", "gemma3", "llama", "qwen2", "mixtral")))
async def site(models: Models, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    loaded = models(request.param)
    loaded.tokenizer.chat_template = TOOL_TEMPLATE
    worker, auditor = serve(loaded), serve(loaded, SchedulerLimits(chunk_alone=AUDITOR_CHUNK))
    yield Site(loaded, worker, auditor)
    await worker.close()
    await auditor.close()


async def deltas_of(site: Site, request: GenerateRequest) -> list[TextDelta]:
    return [
        each for each in await events_of(site.worker, request) if isinstance(each, TextDelta) and not each.is_prompt
    ]


async def text_margin(auditor: EngineBackend, asked: ScoreRequest, deltas: Sequence[TextDelta]) -> float | None:
    """That of the text of these deltas."""
    events = [each async for each in auditor.score(msgspec.structs.replace(asked, text_hash=text_hash(deltas)))]
    scored = [each for each in events if isinstance(each, Scored)]
    assert all(each.text is None for each in scored[:-1])
    return scored[-1].text


def part(asked: ScoreRequest, before: Sequence[TextDelta], deltas: Sequence[TextDelta]) -> ScoreRequest:
    """The request to look at these deltas alone, which stand after those before."""
    resumed = (*asked.request.resume_tokens, *(each for delta in before for each in delta.token_ids))
    ids = tuple(each for delta in deltas for each in delta.token_ids)
    request = msgspec.structs.replace(asked.request, resume_tokens=resumed)
    return msgspec.structs.replace(asked, request=request, token_ids=ids, reason=None, stop=None)


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
async def test_the_ids_of_an_honest_answer_say_its_text_and_no_other(site: Site, fields: dict[str, Any]) -> None:
    request = ask(**{"prompt": "The quick brown", "max_tokens": 40, **fields})
    asked, deltas = await site.honest(request), await deltas_of(site, request)
    assert await text_margin(site.auditor, asked, deltas) == 0.0
    assert await text_margin(site.auditor, asked, [*deltas, TextDelta(" Buy!")]) == MAX_MARGIN


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
async def test_so_they_do_from_any_delta_to_any_other(site: Site, fields: dict[str, Any]) -> None:
    request = ask(**{"prompt": "The quick brown", "max_tokens": 40, **fields})
    asked = await site.honest(request)
    deltas = [delta for delta in await deltas_of(site, request) if delta.token_ids]
    if request.resume_text:
        return
    step = max(1, len(deltas) // scaled(ci=2, deep=40))
    for first in range(0, len(deltas), step):
        for last in range(first + 1, len(deltas) + 1, step):
            window = deltas[first:last]
            assert await text_margin(site.auditor, part(asked, deltas[:first], window), window) == 0.0, (first, last)


async def test_bytes_that_are_no_character_are_said_alike(site: Site) -> None:
    """The model's bytes, in any order: most of them are parts of characters that never come."""
    tokens = site.loaded.tokenizer.convert_ids_to_tokens(range(300))
    torn = [index for index, token in enumerate(tokens) if token and not token.isascii()]
    request = ask(sampling=Sampling(seed=1, temperature=2, logit_bias=dict.fromkeys(torn, 60.0)), max_tokens=40)
    asked, deltas = await site.honest(request), await deltas_of(site, request)
    assert "�" in "".join(delta.text for delta in deltas)
    for count in range(1, len(deltas) + 1, scaled(ci=9, deep=1)):
        assert await text_margin(site.auditor, part(asked, (), deltas[:count]), deltas[:count]) == 0.0


async def test_what_comes_before_a_stop_string_within_a_token_is_looked_at(site: Site) -> None:
    request = ask(sampling=GREEDY, max_tokens=40, ignore_eos=True)
    for stops in stops_in((await answer(site.worker, request)).choices[0].text):
        stopping = msgspec.structs.replace(request, stop=stops)
        asked, deltas = await site.honest(stopping), await deltas_of(site, stopping)
        assert await text_margin(site.auditor, asked, deltas) == 0.0
        margin = await text_margin(site.auditor, asked, [*deltas, TextDelta(" Buy!")])
        assert margin is not None and margin > 0.01


async def test_calls_are_part_of_the_text(site: Site) -> None:
    prompt = ChatPrompt((Message("user", "Hello"),), tools=(WEATHER,), tool_choice="required")
    request = ask(prompt, sampling=HOT, max_tokens=80)
    asked, deltas = await site.honest(request), await deltas_of(site, request)
    pieces = [piece for delta in deltas for piece in delta.tool_calls]
    assert pieces
    for lie in ({"arguments": "{}"}, {"name": "pay"}, {"id": "call_0"}):
        false = [msgspec.structs.replace(pieces[0], **lie), *pieces[1:]]
        assert await text_margin(site.auditor, asked, [TextDelta(tool_calls=tuple(false))]) == MAX_MARGIN


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ([TextDelta("ab", (1, 2))], [TextDelta("a", (1,)), TextDelta("b", (2,))], True),
        ([TextDelta("ab")], [TextDelta("a")], False),
        ([TextDelta("a")], [TextDelta(tool_calls=(ToolCallDelta(0, "a"),))], False),
        (
            [TextDelta(tool_calls=(ToolCallDelta(0, "i", "f", "{}"),))],
            [
                TextDelta(tool_calls=(ToolCallDelta(0, "i", "f", "{"),)),
                TextDelta(tool_calls=(ToolCallDelta(0, None, None, "}"),)),
            ],
            True,
        ),
        (
            [TextDelta(tool_calls=(ToolCallDelta(0, "i", "f"),))],
            [TextDelta(tool_calls=(ToolCallDelta(0, "if", ""),))],
            False,
        ),
        (
            [TextDelta(tool_calls=(ToolCallDelta(0, "i", "f"),))],
            [TextDelta(tool_calls=(ToolCallDelta(0, "i", "", "f"),))],
            False,
        ),
        ([], [TextDelta("")], True),
    ],
)
def test_the_hash_is_of_what_is_said_however_it_is_cut(
    one: Sequence[TextDelta], other: Sequence[TextDelta], is_same: bool
) -> None:
    assert (text_hash(one) == text_hash(other)) is is_same
