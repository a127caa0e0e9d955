"""Images that go with a message, and calls of tools that come back: what the playground sends and shows of them."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.browser import ATTACKS, findings, is_wider_than_its_screen, screenshot, tab, wait_live
from tests.page.pretend_gateway import PretendGateway, pretend_gateway
from tests.page.pretend_network import network

SEES, BLIND = "a-model-that-sees", "blind"
JPEG = re.compile(r"^data:image/jpeg;base64,(.+)$")


def png(width: int, height: int) -> bytes:
    """Of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\x00" + b"\x20\x80\xc0" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def picked(name: str = "photo.png", data: bytes | None = None) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": png(2048, 1024) if data is None else data}


@pytest.fixture
def gateway() -> Iterator[PretendGateway]:
    shown = network(3)
    one = {**shown["models"][0], "tasks": ["generate"]}
    models = [{**one, "id": SEES, "features": ["chat", "images"]}, {**one, "id": BLIND, "features": ["chat"]}]
    with pretend_gateway() as running:
        running.show({**shown, "models": models})
        yield running


@pytest.fixture
def page(browser: Browser, gateway: PretendGateway) -> Iterator[Page]:
    with tab(browser, gateway.url, "#/playground") as opened:
        wait_live(opened)
        expect(opened.locator("#model")).to_have_value(SEES)
        yield opened


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def thumbs(page: Page) -> Any:
    return page.get_by_role("button", name=re.compile(r"^Take image \d away$"))


def size_of(jpeg: bytes) -> tuple[int, int]:
    """That of a JPEG of one frame."""
    at = jpeg.index(b"\xff\xc0")
    height, width = struct.unpack(">HH", jpeg[at + 5 : at + 9])
    return width, height


def test_an_image_is_made_small_shown_and_sent(page: Page, gateway: PretendGateway) -> None:
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Attach images").click()
    choosing.value.set_files([picked(), picked("other.png")])  # type: ignore[list-item]
    expect(thumbs(page)).to_have_count(2)
    thumbs(page).first.click()
    expect(thumbs(page)).to_have_count(1)
    assert findings(page) == [] and not is_wider_than_its_screen(page)
    screenshot(page, "playground-attached", is_whole=False)
    send(page, "What is this?")
    expect(page.locator(".answer .text")).to_have_text("Yes.")
    expect(thumbs(page)).to_have_count(0)
    expect(page.get_by_role("img", name="Image 1")).to_be_visible()
    (said,) = gateway.asked[-1]["messages"]
    text, image = said["content"]
    assert text == {"type": "text", "text": "What is this?"}
    found = JPEG.match(image["image_url"]["url"])
    assert image["type"] == "image_url" and found is not None
    assert size_of(base64.b64decode(found[1])) == (1024, 512)
    send(page, "And now?")
    expect(page.locator(".answer")).to_have_count(2)
    earlier, _, now = gateway.asked[-1]["messages"]
    assert (earlier, now) == (said, {"role": "user", "content": "And now?"})
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    page.get_by_role("button", name="Edit").first.click()
    expect(thumbs(page)).to_have_count(1)
    page.keyboard.press("Escape")
    expect(thumbs(page)).to_have_count(0)


@pytest.mark.parametrize(
    ("kind", "target", "holds"), [("paste", "#prompt", "clipboardData"), ("drop", "#compose", "dataTransfer")]
)
def test_images_are_pasted_and_dropped(page: Page, kind: str, target: str, holds: str) -> None:
    script = """([kind, target, holds, bytes]) => {
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
        const event = new Event(kind, { bubbles: true, cancelable: true });
        Object.defineProperty(event, holds, { value: held });
        document.querySelector(target).dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    assert page.evaluate(script, [kind, target, holds, list(png(4, 4))]) is True
    expect(thumbs(page)).to_have_count(1)


def test_what_is_no_image_and_what_is_too_much_is_said(page: Page) -> None:
    files, problem = page.locator("#image-files"), page.locator("#images-problem")
    files.set_input_files([picked(), picked("text.png", b"no image")])  # type: ignore[list-item]
    expect(problem).to_have_text("This browser cannot read all of that as images.")
    expect(thumbs(page)).to_have_count(1)
    files.set_input_files([picked(data=png(8, 8))] * 4)  # type: ignore[list-item]
    expect(problem).to_have_text("4 images go with a message.")
    expect(thumbs(page)).to_have_count(4)


def test_a_model_that_sees_nothing_is_sent_no_image(page: Page, gateway: PretendGateway) -> None:
    page.locator("#image-files").set_input_files(picked(data=png(8, 8)))  # type: ignore[arg-type]
    send(page, "one")
    expect(page.locator(".answer")).to_have_count(1)
    page.locator("#image-files").set_input_files(picked(data=png(8, 8)))  # type: ignore[arg-type]
    expect(thumbs(page)).to_have_count(1)
    page.get_by_role("combobox", name="Model", exact=True).select_option(BLIND)
    expect(page.get_by_role("button", name="Attach images")).to_be_hidden()
    send(page, "two")
    problem = page.locator("#images-problem")
    expect(problem).to_have_text("blind cannot read images. Choose a model that can, or take them away.")
    assert len(gateway.asked) == 1
    thumbs(page).click()
    expect(problem).to_be_hidden()
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".answer")).to_have_count(2)
    assert [message["content"] for message in gateway.asked[-1]["messages"]] == ["one", "Yes.", "two"]


def test_a_command_has_a_word_in_the_place_of_an_image(page: Page) -> None:
    page.locator("#image-files").set_input_files(picked())  # type: ignore[arg-type]
    send(page, "one")
    expect(page.locator(".answer")).to_have_count(1)
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#copy-curl")).to_have_text("Copied")
    assert '"data:image/jpeg;base64,IMAGE"' in page.evaluate("navigator.clipboard.readText()")


def test_calls_of_tools_are_shown_with_their_arguments(page: Page, gateway: PretendGateway) -> None:
    gateway.says = [
        {"content": "I look."},
        {"tool_calls": [{"index": 0, "function": {"name": "weather", "arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 1, "function": {"name": ATTACKS[0], "arguments": ATTACKS[1]}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ' "Berlin"}'}}]},
        {"tool_calls": [{"index": 1 << 40, "function": {"name": "too many"}}]},
    ]
    send(page, "one")
    calls = page.locator(".answer .call")
    expect(calls).to_have_count(2)
    expect(calls.first.locator("h4")).to_have_text("Calls weather")
    expect(calls.first.locator("pre")).to_have_text('{\n  "city": "Berlin"\n}')
    expect(calls.nth(1).locator("pre")).to_have_text(ATTACKS[1])
    expect(page.locator(".answer .text")).to_have_text("I look.")
    assert findings(page) == []
    screenshot(page, "playground-tools", is_whole=False)
