"""Answers about images are looked at with the images: they are prompt, for auditors and for whoever goes on."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from gateway.audits.canaries import canary
from gateway.audits.modes import AuditMode
from p2pnet.features import features_needed
from p2pnet.images import images_of
from p2pnet.messages import ChatPrompt, Finished, GenerateRequest, ImagePart, Message, Sampling
from tests.gateway.audits.audited_swarm import DIGEST, MODEL, Answer, Give, audited_swarm, honest_answer
from tests.images import png
from tests.stories import card, settle

SEES = ("chat", "images", "resume", "score")
PROMPT = ChatPrompt((Message("user", "What is it?", images=(ImagePart(png(shade=7)),)),))


def about_an_image(request_id: str) -> GenerateRequest:
    return GenerateRequest(request_id, MODEL, PROMPT, Sampling(5), max_tokens=24)


def unseen(request: GenerateRequest) -> Answer:
    """What one makes up that leaves the image out."""
    assert isinstance(request.prompt, ChatPrompt)
    blind = ChatPrompt(tuple(msgspec.structs.replace(message, images=()) for message in request.prompt.messages))
    return honest_answer(msgspec.structs.replace(request, prompt=blind))


@pytest.mark.parametrize(("give", "is_against"), [(honest_answer, False), (unseen, True)])
async def test_an_auditor_is_shown_the_image(give: Give, is_against: bool) -> None:
    async with audited_swarm() as swarm:
        worker = await swarm.join("worker", give, features=SEES)
        auditor = await swarm.join("auditor", features=("score",))
        await swarm.run(about_an_image("r1"))
        await swarm.look()
        (look,) = auditor.looks
        assert list(images_of(look.request.prompt)) == list(images_of(PROMPT))
        assert (swarm.audits.judge.cases.of(worker.peer_id, DIGEST).evidence.log_e > 0) == is_against


@pytest.mark.parametrize(("give", "is_against"), [(honest_answer, False), (unseen, True)])
async def test_who_goes_on_is_shown_the_image_and_tells_what_it_thinks(give: Give, is_against: bool) -> None:
    async with audited_swarm(AuditMode.CANARIES) as swarm:
        first = await swarm.join("first", give, holds="broken", features=SEES)
        task = asyncio.create_task(swarm.run(about_an_image("broken"), seen := []))
        await settle(lambda: len(seen) > 2)
        second = await swarm.join("second", features=SEES)
        for attempt in swarm.serving.watch.attempts:
            attempt.cut("it is gone")
        events, error = await task
        assert error is None and isinstance(events[-1], Finished)
        (request,) = second.requests
        assert request.resume_tokens and request.score_resume and request.prompt == PROMPT
        assert (swarm.audits.judge.cases.of(first.peer_id, DIGEST).evidence.log_e > 0) == is_against


def test_a_canary_has_no_image() -> None:
    asked = canary(card(features=SEES), random.Random(1))
    assert features_needed(asked) == {"chat"}
