"""What the page shows of networks of any size, to anybody: in both themes, on a phone, read aloud, under attack."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.browser import ATTACKS, Theme, findings, is_wider_than_its_screen, screenshot, tab, wait_live
from tests.page.pretend_gateway import JOIN, PretendGateway, pretend_gateway
from tests.page.pretend_network import network, request

VIEWS = ("#/", "#/playground", "#/join")
MANY = 200
PHONE_PX = 4_500
"""Five screens of a phone are read to their end, with names of sixty letters too."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[PretendGateway]:
    with pretend_gateway() as running:
        yield running


def names_of(view: str) -> str:
    return view.removeprefix("#/") or "overview"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nobody_is_shut_out(browser: Browser, gateway: PretendGateway, theme: Theme) -> None:
    gateway.show(network(40))
    with tab(browser, gateway.url, theme=theme) as page:
        wait_live(page)
        found = {}
        for view in VIEWS:
            page.goto(f"{gateway.url}/{view}")
            page.locator(f"#{names_of(view)}").wait_for()
            found[view] = findings(page)
            screenshot(page, f"{names_of(view)}-{theme}")
        assert found == {view: [] for view in VIEWS}


@pytest.mark.parametrize("workers", [0, 3, MANY])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    browser: Browser, gateway: PretendGateway, workers: int
) -> None:
    def long_name(number: int) -> str:
        return "W" * 60 if number % 2 else f"worker {number}"

    gateway.show(network(workers, name=long_name))
    with tab(browser, gateway.url, width=360) as page:
        wait_live(page)
        for view in VIEWS:
            page.goto(f"{gateway.url}/{view}")
            page.locator(f"#{names_of(view)}").wait_for()
            assert not is_wider_than_its_screen(page), view
            assert page.evaluate("document.documentElement.scrollHeight") <= PHONE_PX, view
            screenshot(page, f"{names_of(view)}-phone-{workers}-workers")
        assert findings(page) == []


def test_a_model_of_which_layers_are_missing_says_so_and_what_serves_them(
    browser: Browser, gateway: PretendGateway
) -> None:
    shown = network(3)
    lacks = {"workers": 0, "slots": 0, "states": {}, "tasks": [], "features": [], "context_length": None}
    large = {**shown["models"][0], **lacks, "id": "large", "digests": [], "missing": [[12, 18], [20, 24]]}
    gateway.show({**shown, "models": [large, *shown["models"]]})
    with tab(browser, gateway.url, width=390) as page:
        wait_live(page)
        said = page.locator("#models li")
        expect(said).to_have_count(1)
        expect(said).to_contain_text("large: layers 12 to 18 and 20 to 24 are missing.")
        expect(said.locator("pre")).to_have_text(
            f"p2pnet serve --model ./large --layers 12:18 --initial-peers {JOIN['initial_peers'][0]}"
        )
        assert findings(page) == [] and not is_wider_than_its_screen(page)
        screenshot(page, "overview-missing-layers")
        gateway.show({"models": shown["models"]})
        expect(said).to_have_count(0)


def test_requests_move_over_the_map_only_while_somebody_looks_who_likes_that(browser: Browser) -> None:
    shown = network(3)
    first, then, _ = shown["workers"]["workers"]
    first["in_flight"] = 2
    for failure in shown["failures"]["failures"]:
        failure["done"] = "going_on"
    failure = shown["failures"]["failures"][0] | {"worker": first["id"], "by": then["id"]}
    with pretend_gateway() as gateway:
        gateway.show(shown)
        with tab(browser, gateway.url, motion="no-preference") as page, tab(browser, gateway.url) as still:
            wait_live(page)
            expect(page.locator(".motion .pulse")).not_to_have_count(0)
            wait_live(still)
            gateway.show({"failures": {"failures": [failure | {"done": "resumed"}]}})
            for one in (page, still):
                expect(one.locator(".motion .jump")).to_have_count(1)
            page.goto(f"{gateway.url}/#/join")
            expect(page.locator(".motion .pulse")).to_have_count(0)
            assert still.locator(".motion .pulse").count() == 0


def test_an_empty_network_says_what_to_do(browser: Browser, gateway: PretendGateway) -> None:
    gateway.show(network(0, bootstraps=1))
    with tab(browser, gateway.url) as page:
        wait_live(page)
        page.get_by_role("link", name="Lend the first machine").click()
        expect(page.get_by_role("heading", name="Lend a machine to this network")).to_be_focused()
        assert page.title() == "Join \u00b7 p2pnet gateway"
        expect(page.get_by_label("Join", exact=True)).to_contain_text("p2pnet serve --model tiny --initial-peers /ip4/")


def test_strangers_are_told_what_they_need_first_and_no_address_of_the_gateways_own(browser: Browser) -> None:
    with pretend_gateway() as gateway:
        gateway.way = {**JOIN, "initial_peers": ["/ip4/127.0.0.1/tcp/31337/p2p/12D3KooWBoot"]}
        gateway.show(network(0, bootstraps=1))
        with tab(browser, gateway.url.replace("127.0.0.1", "gateway.example"), "#/join") as page:
            join = page.locator("#join")
            expect(join.get_by_role("heading").nth(1)).to_have_text("Before you do")
            expect(join).to_contain_text("A CPU is enough")
            expect(join).to_contain_text("1.4 GB")
            expect(join.get_by_label("Join", exact=True)).to_have_text(
                "p2pnet serve --model tiny --initial-peers ADDRESS"
            )
            expect(join).not_to_contain_text("12D3KooWBoot")
        with tab(browser, gateway.url, "#/join") as page:
            expect(page.get_by_label("Join", exact=True)).to_contain_text("12D3KooWBoot")


def test_a_swarms_page_leads_nobody_into_the_public_network(browser: Browser) -> None:
    with pretend_gateway() as gateway:
        gateway.way = {**JOIN, "swarm": "lab", "command": "p2pnet serve --model tiny --swarm lab"}
        gateway.show(network(0, bootstraps=1))
        with tab(browser, gateway.url, "#/join") as page:
            expect(page.locator("#join pre").nth(1)).to_have_text("p2pnet swarm join")
            expect(page.locator("#join pre").nth(2)).to_have_text("p2pnet serve --model tiny --swarm lab")
            expect(page.locator("#join")).not_to_contain_text("--initial-peers")
            expect(page.locator("#join")).not_to_contain_text("strangers")
            assert findings(page) == []


def test_only_models_that_chat_are_offered_for_chatting(browser: Browser, gateway: PretendGateway) -> None:
    shown = network(3)
    one = {**shown["models"][0], "tasks": ["generate"]}
    models = [{**one, "id": "a-base-model", "features": ["text"]}, {**one, "id": "chats", "features": ["chat", "text"]}]
    gateway.show({**shown, "models": models})
    with tab(browser, gateway.url, "#/playground") as page:
        wait_live(page)
        expect(page.locator("#model option")).to_have_text(["chats"])
        expect(page.locator("#model")).to_have_value("chats")


def test_two_hundred_workers_are_read_and_found(browser: Browser, gateway: PretendGateway) -> None:
    shown = network(MANY)
    gateway.show(shown)
    with tab(browser, gateway.url) as page:
        wait_live(page)
        screenshot(page, "overview-200-workers")
        rows = page.get_by_role("table", name="Workers that this gateway knows").get_by_role("row")
        expect(rows).to_have_count(1 + 25)
        expect(page.locator(".mesh text")).to_have_text(
            ["134 direct", "33 punched", re.compile("^17 by "), re.compile("^16 by ")]
        )
        page.get_by_role("button", name="Show all 200").click()
        expect(rows).to_have_count(1 + MANY)
        page.get_by_role("searchbox").fill("night-shift")
        expect(rows).to_have_count(1 + 1)
        expect(page.locator(".mesh .node.worker:not(.dim)")).to_have_count(1)
        expect(page.locator(".mesh .link.found")).to_have_count(1)
        states = {worker["state"] for worker in shown["workers"]["workers"]}
        on_map = {state: page.locator(f".mesh .node[data-state={state}]").count() for state in states}
        told = [worker["state"] for worker in shown["workers"]["workers"]]
        assert on_map == {state: told.count(state) for state in states}
        assert page.locator(".mesh .node").count() == MANY + 3
        said = page.get_by_role("img", name=f"{MANY} workers, 33 of them through 2 relays; 2 bootstraps.")
        expect(said).to_be_visible()


def test_each_number_leads_to_what_it_is_made_of(browser: Browser, gateway: PretendGateway) -> None:
    shown = network(MANY)
    gateway.show(shown)
    workers = shown["workers"]["workers"]
    ill = sum(worker["state"] != "healthy" for worker in workers)
    busy = sum(worker["in_flight"] > 0 for worker in workers)
    with tab(browser, gateway.url) as page:
        wait_live(page)
        for link, found in ((f"{ill} in trouble", ill), ("through a relay 33", 33), ("lost 2", 2)):
            page.get_by_role("link", name=link, exact=True).click()
            expect(page.locator(".mesh .node.worker:not(.dim)")).to_have_count(found)
        page.locator("#tiles a", has_text=str(shown["gateway"]["in_flight"])).click()
        expect(page.locator(".mesh .node.worker:not(.dim)")).to_have_count(busy)
        page.locator("#models").get_by_role("link", name="tiny").click()
        expect(page.get_by_role("searchbox")).to_have_value("tiny")
        page.get_by_role("searchbox").fill("")
        of_model = page.locator("#models tr", has_text="tiny").locator("[data-label=Workers] a")
        many = int(of_model.inner_text())
        of_model.click()
        expect(page.locator(".mesh .node.worker:not(.dim)")).to_have_count(many)
        page.locator(".mesh text", has_text="punched").click()
        expect(page.get_by_role("searchbox")).to_have_value("punched")


def test_failures_of_a_kind_are_together_and_five_are_shown(browser: Browser, gateway: PretendGateway) -> None:
    shown = network(12)
    first = shown["failures"]["failures"][0]
    shown["failures"]["failures"] = [
        first,
        first | {"request_id": "an-earlier-one"},
        *shown["failures"]["failures"][1:],
    ]
    gateway.show(shown)
    with tab(browser, gateway.url) as page:
        wait_live(page)
        rows = page.locator("#failures tbody tr")
        expect(rows).to_have_count(5)
        expect(rows.first.locator("td").first).to_have_text("2")
        page.locator("#failures").get_by_role("button", name="Show all 12").click()
        expect(rows).to_have_count(12)


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_a_worker_and_a_request_have_pages_that_lead_to_one_another(
    browser: Browser, gateway: PretendGateway, theme: Theme, width: int
) -> None:
    shown = network(3)
    first, then, _ = (worker["id"] for worker in shown["workers"]["workers"])
    gateway.show(shown)
    gateway.requests = [request("request-0", first, then)]
    with tab(browser, gateway.url, f"#/worker/{first}", theme=theme, width=width) as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("attic")
        facts = page.locator("#worker dl")
        for name, fact in (("State", "healthy"), ("Reached", "direct"), ("Requests in a day", "40")):
            expect(facts.locator("div", has_text=name).first.locator("dd")).to_have_text(fact)
        expect(page.locator("#worker").get_by_text(first)).to_be_visible()
        assert findings(page) == []
        screenshot(page, f"worker-{theme}")
        page.get_by_role("link", name=re.compile(r"^\d\d:\d\d:\d\d$")).click()
        ways = page.locator("#request .way li")
        expect(ways).to_have_count(3)
        expect(ways.first).to_contain_text("Waited 0.40 s for a free slot")
        expect(ways.nth(1)).to_contain_text(
            "first token after 0.50 s, 30 tokens in 1.60 s. The connection to it was lost"
        )
        bars = [bar.evaluate("bar => [bar.style.left, bar.style.width]") for bar in ways.nth(2).locator("i").all()]
        assert bars == [["50%", "7.5%"], ["57.5%", "42.5%"]]
        assert findings(page) == [] and not is_wider_than_its_screen(page)
        screenshot(page, f"request-{theme}")
        ways.nth(2).get_by_role("link").click()
        expect(page.locator("#worker").get_by_text(then)).to_be_visible()


def test_pages_of_what_is_not_known_say_so(browser: Browser, gateway: PretendGateway) -> None:
    gateway.show(network(0))
    gateway.requests = []
    with tab(browser, gateway.url, "#/request/%3Cb%3E%zz") as page:
        expect(page.locator("#request")).to_contain_text("This gateway remembers no such request")
        page.goto(f"{gateway.url}/#/worker/nobody")
        expect(page.locator("#worker")).to_contain_text("No worker with this id announces itself now.")


def test_failures_say_names_that_are_told_after_them(browser: Browser) -> None:
    shown = network(3)
    with pretend_gateway() as gateway:
        gateway.show({name: shown[name] for name in ("gateway", "failures", "workers")})
        with tab(browser, gateway.url) as page:
            wait_live(page)
            expect(page.locator("#failures tbody tr").first).to_contain_text("attic (")
            expect(page.locator("#failures tbody tr").first).to_contain_text("Resumed on annas-study (")


def test_one_cursor_goes_through_all_charts(browser: Browser, gateway: PretendGateway) -> None:
    gateway.show(network(12))
    with tab(browser, gateway.url) as page:
        wait_live(page)
        moments = page.locator(".readout .muted")
        expect(moments).to_have_text(["last minute"] * 3)
        page.get_by_role("img", name="Time to first token").hover()
        expect(page.locator(".chart .cursor")).to_have_count(3)
        assert len(set(moments.all_text_contents())) == 1 and "minute to" in moments.first.inner_text()


def test_charts_are_told_in_words_and_in_a_table(browser: Browser, gateway: PretendGateway) -> None:
    gateway.show(network(12))
    with tab(browser, gateway.url) as page:
        wait_live(page)
        chart = page.get_by_role("img", name="Time to first token")
        expect(chart).to_have_accessible_name(
            # median and p95, each with its last value, its highest and when that was
            expected_name("median \\(p50\\)", "p95"),
        )
        figure = page.locator("figure", has=page.get_by_role("heading", name="Requests per second"))
        figure.get_by_text("As a table").press("Enter")
        expect(figure.get_by_role("row")).to_have_count(1 + 12)


def expected_name(*lines: str) -> re.Pattern[str]:
    said = "; ".join(f"{line}: [\\d.]+ m?s at last, at most [\\d.]+ m?s at \\d\\d:\\d\\d" for line in lines)
    return re.compile(f"^Time to first token The last hour\\. {said}\\.$")


def test_what_strangers_say_is_only_ever_text(browser: Browser, gateway: PretendGateway) -> None:
    shown = network(len(ATTACKS), name=lambda number: ATTACKS[number])
    for worker, attack in zip(shown["workers"]["workers"], ATTACKS, strict=True):
        worker["models"] = [{**worker["models"][0], "id": attack, "task": "generate"}]
        worker["agent"] = worker["reason"] = attack
    shown["models"] = [{**shown["models"][0], "id": attack, "features": ["chat"]} for attack in ATTACKS]
    shown["failures"]["failures"] = [
        {**failure, "model": attack, "outcome": attack, "done": attack}
        for failure, attack in zip(shown["failures"]["failures"], ATTACKS, strict=True)
    ]
    shown["gateway"]["agent"] = ATTACKS[0]
    gateway.show(shown)
    with tab(browser, gateway.url) as page:  # fails when one of them has run
        wait_live(page)
        for attack in ATTACKS:
            expect(page.locator("#workers").get_by_text(attack, exact=True).first).to_be_visible()
            expect(page.locator("#models").get_by_text(attack, exact=True)).to_be_visible()
            expect(page.locator("#failures").get_by_text(attack, exact=True).first).to_be_visible()
            expect(page.locator("#volunteers").get_by_text(attack, exact=True)).to_be_visible()
        page.goto(f"{gateway.url}/#/playground")
        assert page.locator("#model option").all_text_contents() == list(ATTACKS)
        assert page.locator("main :is(iframe, script, object, embed, [onerror], [onload])").count() == 0


def test_volunteers_who_want_to_be_named_are(browser: Browser, gateway: PretendGateway) -> None:
    gateway.show(network(3, name=lambda number: "" if number == 1 else f"worker-{number}"))
    with tab(browser, gateway.url) as page:
        wait_live(page)
        rows = page.locator("#volunteers tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("worker-0")
        expect(rows.first).to_contain_text("24,690")
        gateway.show(network(0))
        expect(page.locator("#volunteers")).to_contain_text("started with --name")


def test_a_page_that_has_lost_its_gateway_says_so(browser: Browser, gateway: PretendGateway) -> None:
    gateway.show(network(3))
    with tab(browser, gateway.url, refused=(503,)) as page:
        wait_live(page)
        gateway.hang_up()
        banner = page.locator("#banner")
        expect(banner).to_contain_text("The gateway does not answer. This is how it was at")
        expect(page.locator("#live")).to_have_text("reconnecting")
        screenshot(page, "overview-stale", is_whole=False)
        gateway.come_back()
        wait_live(page)
        expect(banner).to_be_hidden()


def test_a_chosen_theme_stays(browser: Browser, gateway: PretendGateway) -> None:
    def ground(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    with tab(browser, gateway.url, theme="light") as page:
        as_the_system = ground(page)
        toggle = page.get_by_role("button", name="Theme")
        toggle.click()
        assert ground(page) == as_the_system
        toggle.click()
        dark = ground(page)
        assert dark != as_the_system
        page.reload()
        assert ground(page) == dark
        toggle.click()
        assert ground(page) == as_the_system


def test_the_keyboard_leads_to_everything(browser: Browser, gateway: PretendGateway) -> None:
    gateway.show(network(3))
    with tab(browser, gateway.url) as page:
        wait_live(page)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Copy this gateway's peer id")).to_be_focused()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert page.evaluate("navigator.clipboard.readText()") == network(3)["gateway"]["id"]
