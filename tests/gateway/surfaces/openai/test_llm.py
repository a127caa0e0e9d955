"""Simon Willison's `llm`, unmodified, with its file of OpenAI-compatible models, through a gateway and a worker,
real processes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.gateway.weather_model import FORECAST, TEXT, WEATHER_JSON

MODELS = """\
- model_id: p2pnet
  model_name: scripted
  api_base: {url}/v1
  supports_schema: true
  supports_tools: true
- model_id: p2pnet-completion
  model_name: scripted
  api_base: {url}/v1
  completion: true
"""
Llm = Callable[..., Awaitable[str]]


@pytest.fixture
def llm(tmp_path: Path, swarm_url: str) -> Llm:
    """`await llm("prompt", "-m", "p2pnet")` is what the command prints."""
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(url=swarm_url))

    async def run(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llm", *arguments),
            env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        return out.decode()

    return run


async def test_a_streamed_answer(llm: Llm) -> None:
    assert (await llm("Why?", "-m", "p2pnet", "-s", "be brief", "-o", "temperature", "0")).strip() == TEXT


async def test_a_completion(llm: Llm) -> None:
    assert (await llm("The sky", "-m", "p2pnet-completion", "--no-stream")).strip() == TEXT


async def test_an_answer_to_a_schema(llm: Llm) -> None:
    assert (await llm("Weather?", "-m", "p2pnet", "--schema", "city, days int")).strip() == WEATHER_JSON


async def test_a_tool_of_its_own(llm: Llm) -> None:
    """The tool takes no arguments and fails with those that the model gives; the model answers all the same."""
    assert FORECAST in await llm("Which version?", "-m", "p2pnet", "-T", "llm_version", "--chain-limit", "3")
