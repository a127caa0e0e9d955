"""The page of a real gateway, with real workers that come, answer, are killed, and go."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.page.browser import ATTACKED, ATTACKS, findings, is_wider_than_its_screen, screenshot, tab, wait_live
from tests.processes import TCP_AND_QUIC_ON_LOOPBACK, Process, Start, processes, run

ECHO, OTHER = "echo", "echo-too"
WORDS = 60
DELAY_MS = 40
"""So an answer of all words takes two and a half seconds."""
LONG = " ".join(f"word{n}" for n in range(WORDS))
HOSTILE = f"<img/src=x/onerror={ATTACKED}>"
"""A name that a worker may announce: printable, without spaces."""
APPEARS_MS = 5_000
SOON_MS = 30_000


@dataclass(frozen=True)
class Swarm:
    start: Start
    bootstrap: Process
    gateway: Process

    @property
    def url(self) -> str:
        assert self.gateway.ready.http is not None
        return self.gateway.ready.http

    def worker(self, name: str) -> Process:
        """One more, which is starting."""
        command = (sys.executable, "-m", "tests.page.saying_worker", "--model", ECHO, "--model", OTHER)
        joins = (*TCP_AND_QUIC_ON_LOOPBACK, "--initial-peers", self.bootstrap.ready.address)
        return self.start.program(*command, "--name", name, "--delay-ms", str(DELAY_MS), *joins, name="worker")


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with processes("page") as start:
        bootstrap = start.bootstrap()
        gateway = start.gateway(peer=bootstrap.ready.address)
        running = Swarm(start, bootstrap, gateway)
        workers = [running.worker(name) for name in ("attic", HOSTILE)]
        for process in (gateway, *workers):
            process.wait_ready()
        yield running


@pytest.fixture
def playground(browser: Browser, swarm: Swarm) -> Iterator[Page]:
    with tab(browser, swarm.url, "#/playground") as page:
        wait_live(page)
        choose(page, ECHO)
        yield page


def choose(page: Page, model: str, which: str = "Model") -> None:
    page.get_by_role("combobox", name=which, exact=True).select_option(model)


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def answers(page: Page) -> Locator:
    return page.locator(".answer")


def wait_over(page: Page) -> None:
    expect(answers(page).last).to_have_attribute("aria-busy", "false")
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()


def row_of(page: Page, worker: Process) -> Locator:
    return page.locator(f"#workers tr[data-key='{worker.ready.peer_id}']")


def test_a_worker_appears_and_disappears(browser: Browser, swarm: Swarm) -> None:
    with tab(browser, swarm.url) as page:
        wait_live(page)
        worker = swarm.worker("comes-and-goes")
        worker.wait_ready()
        row = row_of(page, worker)
        expect(row).to_contain_text("comes-and-goes", timeout=APPEARS_MS)
        expect(row).to_contain_text("healthy")
        expect(page.locator(".mesh .node.worker")).to_have_count(3)
        screenshot(page, "overview-real")
        worker.send(signal.SIGKILL)
        expect(row.and_(page.locator(":has([data-state=healthy])"))).to_have_count(0, timeout=SOON_MS)


def test_an_answer_streams_and_says_who_gave_it(playground: Page) -> None:
    ask(playground, LONG)
    answer = answers(playground).last
    expect(answer).to_contain_text("word3")
    assert answer.get_attribute("aria-busy") == "true"
    assert "word59" not in answer.inner_text()
    wait_over(playground)
    assert answer.locator(".text").inner_text() == LONG
    facts = answer.locator(".facts")
    expect(facts).to_have_text(
        re.compile(rf"^{WORDS} tokens · [\d.]+ tokens/s · first token after [\d.]+ m?s · by .+ \(….{{8}}\)$")
    )
    expect(playground.locator(".badge")).to_have_count(0)
    expect(playground.locator("#said")).to_have_text(f"Answer complete, {WORDS} tokens.")
    screenshot(playground, "playground-answer")


def test_a_conversation_outlives_other_views_and_not_a_reload(playground: Page) -> None:
    ask(playground, "one two")
    wait_over(playground)
    playground.get_by_role("link", name="Overview").click()
    playground.get_by_role("link", name="Playground").click()
    expect(answers(playground)).to_have_text(re.compile("one two"))
    playground.reload()
    expect(answers(playground)).to_have_count(0)


def test_stop_and_regenerate(playground: Page) -> None:
    ask(playground, LONG)
    answer = answers(playground).last
    expect(answer).to_contain_text("word2")
    playground.get_by_role("button", name="Stop").click()
    wait_over(playground)
    expect(answer).to_contain_text("Stopped.")
    assert "word59" not in answer.inner_text()
    playground.get_by_role("button", name="Regenerate").click()
    expect(answers(playground).last).to_contain_text("word59")
    wait_over(playground)
    expect(answers(playground)).to_have_count(1)


def test_two_models_beside_each_other(playground: Page) -> None:
    playground.get_by_label("Compare with a second model").check()
    choose(playground, OTHER, "Second model")
    ask(playground, "one two three")
    wait_over(playground)
    expect(answers(playground)).to_have_count(2)
    expect(answers(playground).locator("h3")).to_have_text([ECHO, OTHER])
    expect(answers(playground).locator(".text")).to_have_text(["one two three"] * 2)
    tops = [answers(playground).nth(n).bounding_box() for n in range(2)]
    assert tops[0] and tops[1] and tops[0]["y"] == tops[1]["y"]
    screenshot(playground, "playground-compare", is_whole=False)


def test_settings_reach_the_request_and_nonsense_is_told(playground: Page) -> None:
    playground.get_by_label("System prompt", exact=True).fill("Be brief.")
    playground.get_by_label("Temperature").fill("7")
    ask(playground, "one two three")
    expect(playground.get_by_role("alert").filter(visible=True)).to_have_text("Temperature is a number from 0 to 2.")
    expect(playground.get_by_label("Temperature")).to_be_focused()
    playground.get_by_label("Temperature").fill("0.5")
    playground.get_by_label("Top p").fill("0.9")
    playground.get_by_label("Max tokens").fill("2")
    playground.get_by_label("Seed").fill("7")
    with playground.expect_request("**/v1/chat/completions") as sent:
        playground.get_by_role("button", name="Send").click()
    wait_over(playground)
    body = sent.value.post_data_json
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one two three"},
    ]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (0.5, 0.9, 2, 7)
    expect(answers(playground).locator(".facts")).to_contain_text("cut at the most tokens")


def test_a_chat_by_keyboard_alone(playground: Page) -> None:
    playground.get_by_role("link", name="Playground").focus()
    for _ in range(30):
        playground.keyboard.press("Tab")
        if playground.evaluate("document.activeElement.id") == "prompt":
            break
    playground.keyboard.type("first")
    playground.keyboard.press("Shift+Enter")
    playground.keyboard.type("second")
    playground.keyboard.press("Enter")
    expect(playground.locator(".asked").last).to_contain_text("first\nsecond", use_inner_text=True)
    wait_over(playground)
    expect(playground.get_by_label("Message", exact=True)).to_be_focused()
    assert playground.get_by_label("Message", exact=True).input_value() == ""


def test_what_a_model_says_is_only_ever_text(playground: Page) -> None:
    attack = "\n".join(["", *ATTACKS, "```html", *ATTACKS, "```"]).strip()
    ask(playground, attack)
    wait_over(playground)
    said = answers(playground).last
    expect(said.locator("pre code")).to_have_text("\n".join(ATTACKS))
    for attacked in ATTACKS:
        expect(said.locator("p", has_text=attacked).first).to_be_visible()
    assert said.locator("img, script, svg, a, iframe").count() == 0


def test_tables_and_code_are_set_and_code_is_copied(playground: Page) -> None:
    ask(playground, "| a | b |\n|---|---|\n| **1** | 2 |\n\n```python\nprint(1)\n```")
    wait_over(playground)
    said = answers(playground).last
    expect(said.locator("th")).to_have_text(["a", "b"])
    expect(said.locator("td strong")).to_have_text("1")
    said.get_by_role("button", name="Copy the code").click()
    assert playground.evaluate("navigator.clipboard.readText()") == "print(1)"
    said.get_by_role("button", name="Copy the table").click()
    expect(said.get_by_role("button", name="Copy the table")).to_have_text("Copied")
    assert playground.evaluate("navigator.clipboard.readText()") == "| a | b |\n|---|---|\n| **1** | 2 |"
    assert findings(playground) == []


def test_what_was_asked_is_edited_and_asked_anew(playground: Page) -> None:
    for text in ("one", "two", "three"):
        ask(playground, text)
        wait_over(playground)
    message = playground.get_by_label("Message", exact=True)
    edits = playground.get_by_role("button", name="Edit")
    edits.nth(1).click()
    expect(message).to_have_value("two")
    playground.keyboard.press("Escape")
    expect(message).to_have_value("")
    expect(playground.locator(".editing")).to_have_count(0)
    edits.nth(1).click()
    message.fill("four")
    with playground.expect_request("**/v1/chat/completions") as sent:
        playground.get_by_role("button", name="Send").click()
    wait_over(playground)
    said = [message["content"] for message in sent.value.post_data_json["messages"]]
    assert said == ["one", "one", "four"]
    expect(playground.locator(".asked p")).to_have_text(["one", "four"])


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 780), (360, 600)])
def test_what_is_written_and_stop_are_always_within_reach(
    browser: Browser, swarm: Swarm, width: int, height: int
) -> None:
    with tab(browser, swarm.url, "#/playground", width=width) as page:
        page.set_viewport_size({"width": width, "height": height})
        wait_live(page)
        expect(page.locator("#model")).to_have_value(ECHO)
        ask(page, "\n".join(f"line {n}" for n in range(60)))
        stop = page.get_by_role("button", name="Stop")
        expect(stop).to_be_in_viewport(ratio=1)
        page.keyboard.press("Escape")
        wait_over(page)
        expect(answers(page).last).to_contain_text("Stopped.")
        expect(page.get_by_role("button", name="Send")).to_be_in_viewport(ratio=1)
        assert page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")
        assert not is_wider_than_its_screen(page)


def test_a_link_brings_the_settings(browser: Browser, playground: Page, swarm: Swarm) -> None:
    choose(playground, OTHER)
    playground.get_by_label("System prompt", exact=True).fill("Be brief & <b>")
    playground.get_by_label("Temperature").fill("0.5")
    playground.get_by_role("button", name="Copy link").click()
    link = playground.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{swarm.url}/#/playground?model={OTHER}&")
    with tab(browser, swarm.url, link.removeprefix(f"{swarm.url}/"), width=390) as page:
        wait_live(page)
        expect(page.locator("#chosen")).to_have_text(OTHER)
        page.get_by_text("Settings").click()
        expect(page.get_by_label("System prompt", exact=True)).to_have_value("Be brief & <b>")
        expect(page.get_by_label("Temperature")).to_have_value("0.5")
        expect(page.get_by_label("Top p")).to_have_value("")


def test_a_link_to_a_model_that_is_gone_says_so(browser: Browser, swarm: Swarm) -> None:
    with tab(browser, swarm.url, "#/playground?model=gone") as page:
        wait_live(page)
        problem = page.get_by_role("alert").filter(visible=True)
        expect(problem).to_have_text("The link asks for gone, which nobody runs now.")


def test_a_request_is_copied_with_this_gateways_url(playground: Page, swarm: Swarm) -> None:
    ask(playground, "it's one")
    wait_over(playground)
    playground.get_by_role("button", name="Copy as curl").click()
    expect(playground.locator("#copy-curl")).to_have_text("Copied")
    curl = playground.evaluate("navigator.clipboard.readText()")
    assert curl.startswith(f"curl -N '{swarm.url}/v1/chat/completions'")
    assert "it'\\''s one" in curl
    playground.get_by_role("button", name="Copy as Python").click()
    expect(playground.locator("#copy-python")).to_have_text("Copied")
    assert f'base_url="{swarm.url}/v1"' in playground.evaluate("navigator.clipboard.readText()")


def test_errors_are_sentences(browser: Browser, swarm: Swarm) -> None:
    with tab(browser, swarm.url, "#/playground", refused=(404,)) as page:
        wait_live(page)
        choose(page, ECHO)
        page.evaluate("document.querySelector('#model option').value = 'nobody-has-it'")
        page.locator("#model").evaluate("select => { select.value = 'nobody-has-it' }")
        ask(page, "one")
        wait_over(page)
        expect(answers(page).last.locator(".problem")).to_have_text(re.compile(r"^[A-Z].*nobody-has-it.*\.$"))


def test_a_turn_that_failed_is_not_sent_along_afterwards(browser: Browser, swarm: Swarm) -> None:
    with tab(browser, swarm.url, "#/playground", refused=(404,)) as page:
        wait_live(page)
        page.evaluate("document.querySelector('#model').add(new Option('nobody-has-it'))")
        for model, text in ((ECHO, "one"), ("nobody-has-it", "two")):
            choose(page, model)
            ask(page, text)
            wait_over(page)
        choose(page, ECHO)
        page.get_by_label("Message", exact=True).fill("three")
        with page.expect_request("**/v1/chat/completions") as sent:
            page.get_by_role("button", name="Send").click()
        wait_over(page)
        said = [(message["role"], message["content"]) for message in sent.value.post_data_json["messages"]]
        assert said == [("user", "one"), ("assistant", "one"), ("user", "three")]


def test_the_join_page_has_this_networks_address(browser: Browser, swarm: Swarm) -> None:
    with tab(browser, swarm.url, "#/join") as page:
        wait_live(page)
        command = page.locator("#join pre").nth(1)
        expect(command).to_contain_text(f"--initial-peers {swarm.bootstrap.ready.address}")
        page.get_by_role("button", name="Copy: Join").click()
        assert page.evaluate("navigator.clipboard.readText()") == command.inner_text()


def test_an_answer_whose_worker_is_killed_goes_on_elsewhere_and_says_so(playground: Page, swarm: Swarm) -> None:
    with playground.expect_response("**/v1/chat/completions") as begun:
        ask(playground, LONG)
    answer = answers(playground).last
    expect(answer).to_contain_text("word5")
    serving = begun.value.headers["x-p2pnet-worker"]
    next(one for one in swarm.start.started if one.is_running and one.ready.peer_id == serving).send(signal.SIGKILL)
    wait_over(playground)
    assert answer.locator(".text").inner_text() == LONG
    expect(answer.locator(".facts")).to_have_text(re.compile(r" · by .+ \(….{8}\), then .+ \(….{8}\)$"))
    expect(answer.locator(".badge")).to_have_text(re.compile(r"^resumed on .+, gap [\d.]+ m?s$"))
    screenshot(playground, "playground-resumed", is_whole=False)
    playground.set_viewport_size({"width": 360, "height": 780})
    assert not is_wider_than_its_screen(playground)
    screenshot(playground, "playground-phone", is_whole=False)
    playground.get_by_role("link", name="Overview").click()
    expect(playground.locator("#failures tbody tr").first).to_contain_text("Resumed on")


def test_a_key_is_asked_for_kept_for_the_tab_and_forgotten(browser: Browser, swarm: Swarm) -> None:
    keys = str(swarm.start.root / "keys.txt")
    added = run("keys", "add", "anna", "--api-key-file", keys, root=swarm.start.root)
    key = next(word for word in added.stdout.split() if word.startswith("sk-p2pnet-"))
    closed = swarm.start.gateway("--api-key-file", keys, peer=swarm.bootstrap.ready.address)
    assert closed.ready.http is not None
    with tab(browser, closed.ready.http, refused=(401,)) as page:
        dialog = page.get_by_role("dialog", name="This gateway asks for a key")
        field = dialog.get_by_label("API key")
        field.fill("wrong")
        field.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("This key is not known here.")
        field.fill(key)
        dialog.get_by_role("button", name="Use this key").click()
        wait_live(page)
        expect(dialog).to_be_hidden()
        page.reload()
        wait_live(page)
        page.get_by_role("link", name="Playground").click()
        choose(page, ECHO)
        page.get_by_role("button", name="Copy as curl").click()
        curl = page.evaluate("navigator.clipboard.readText()")
        assert '"Authorization: Bearer $P2PNET_API_KEY"' in curl
        assert key not in curl
        page.get_by_role("button", name="Forget key").click()
        expect(dialog).to_be_visible()
        assert page.evaluate("Object.keys(sessionStorage)") == []
