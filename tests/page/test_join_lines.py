"""What the page tells a volunteer to type is what README says, and what the commands take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from playwright.sync_api import Browser
from typer.core import TyperGroup

from p2pnet.cli.main import app
from tests.page.browser import tab, wait_live
from tests.page.pretend_gateway import JOIN, pretend_gateway
from tests.page.pretend_network import network

ROOT = Path(__file__).parents[2]
SAID = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/install.md"))
WHEEL = re.compile(r"p2pnet-[^ ]+\.whl")
RUNS = "p2pnet"


def commands(browser: Browser, swarm: str | None) -> list[str]:
    """All that the page has to be copied, and the flags that it names beside."""
    with pretend_gateway() as gateway:
        gateway.way = {**JOIN, "swarm": swarm}
        gateway.show(network(0))
        with tab(browser, gateway.url, "#/join") as page:
            wait_live(page)
            page.get_by_label("Join", exact=True).wait_for()
            flags = page.locator("#join li > code").all_inner_texts()
            told = page.locator("#join pre").all_inner_texts()
    return [*(line for line in told if not line.startswith("/")), *(f"p2pnet serve {flag} x" for flag in flags)]


def refusal(words: list[str]) -> str | None:
    """Why the command line takes no such words, if so: unknown commands and flags, and flags without their value."""
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    if isinstance(command, TyperGroup):
        return f"no such command: {words}"
    known = {name: option for option in command.params for name in option.opts}
    strangers = [word for word in words if word.startswith("--") and word not in known]
    return f"no such flags: {strangers}" if strangers else None


@pytest.mark.parametrize("swarm", [None, "lab"])
def test_what_the_page_says_can_be_typed_and_is_said_elsewhere_too(browser: Browser, swarm: str | None) -> None:
    told = commands(browser, swarm)
    assert len(told) >= 6
    said = WHEEL.sub("WHEEL", SAID)
    for line in told:
        before, runs, after = WHEEL.sub("WHEEL", line).partition(f"{RUNS} ")
        assert not before or f"{before}{runs}".strip() in said, line
        assert not runs or refusal(shlex.split(after)) is None, line
    assert refusal(["serve", "--modle", "tiny"]) == "no such flags: ['--modle']"
