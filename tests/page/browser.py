"""The browser of the page's tests: Debian's chromium, driven by Playwright, and what must never happen in it.

Nothing is downloaded, and no request leaves this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.requirements import unavailable

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP *.example 127.0.0.1"),
)
ARTEFACTS = Path(__file__).parents[2] / "artefacts" / "page"
"""Screenshots are left here for people to look at."""

TIMEOUT_MS = 15_000
SERIOUS = ("serious", "critical")

ATTACKED = "window.isAttacked=true"
ATTACKS = (
    f'<img src=x onerror="{ATTACKED}">',
    f"<script>{ATTACKED}</script>",
    f'"><svg onload="{ATTACKED}">',
    f'<a href="javascript:{ATTACKED}">here</a>',
    f"<iframe srcdoc='<script>parent.{ATTACKED}</script>'></iframe>",
)

Theme = Literal["light", "dark"]
Motion = Literal["reduce", "no-preference"]


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    if not CHROMIUM.exists():
        unavailable(f"{CHROMIUM} is not there: it is in Debian's package chromium")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tab(
    browser: Browser,
    url: str,
    view: str = "",
    theme: Theme = "light",
    width: int = 1280,
    refused: Sequence[int] = (),
    motion: Motion = "reduce",
) -> Iterator[Page]:
    """A new visitor's tab. Errors in its console, policies violated and requests to elsewhere fail the test, but for
    answers with a status that the test says are `refused`."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=theme,
        reduced_motion=motion,
        permissions=["clipboard-read", "clipboard-write"],
    )
    complaints: list[str] = []

    def note_console(message: ConsoleMessage) -> None:
        is_expected = any(f"status of {status}" in message.text for status in refused)
        if message.type in ("error", "warning") and not is_expected:
            complaints.append(f"console: {message.text}")

    def note_request(request: Request) -> None:
        if not request.url.startswith((url, "data:")):
            complaints.append(f"a request to {request.url}")

    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.on("console", note_console)
    page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
    page.on("request", note_request)
    try:
        page.goto(f"{url}/{view}")
        yield page
        assert complaints == []
        assert page.evaluate("window.isAttacked") is None
    except BaseException:
        screenshot(page, "failed")
        raise
    finally:
        context.close()


def wait_live(page: Page) -> None:
    """Its data is there."""
    page.locator("#live[data-state=live]").wait_for()


def screenshot(page: Page, name: str, is_whole: bool = True) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=is_whole)


def findings(page: Page) -> list[str]:
    """What axe finds in the page as it is now that would shut somebody out."""
    violations: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{found['id']} ({found['impact']}): {node['html'][:200]}"
        for found in violations
        if found["impact"] in SERIOUS
        for node in found["nodes"]
    ]


def is_wider_than_its_screen(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))
