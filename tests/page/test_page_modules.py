"""The page's pure functions, each as a table, in the browser that they are for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.page.browser import ATTACKS, tab
from tests.page.pretend_gateway import pretend_gateway
from tests.page.pretend_network import network


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with pretend_gateway() as gateway, tab(browser, gateway.url) as opened:
        yield opened


def call(page: Page, function: str, *arguments: Any) -> Any:
    """`module.name` of the page's scripts."""
    module, name = function.split(".")
    script = "async ([module, name, given]) => (await import(`/static/${module}.js`))[name](...given)"
    return page.evaluate(script, [module, name, list(arguments)])


def test_a_model_that_does_two_things_is_named_once(page: Page) -> None:
    tiny = [{"id": "tiny", "task": "generate"}, {"id": "tiny", "task": "embed"}]
    assert call(page, "workers.modelNames", {"models": [*tiny, {"id": "other"}]}) == "tiny, other"


def test_what_a_worker_runs_and_what_it_would(page: Page) -> None:
    driver = {"models": [], "incomplete": ["large"]}
    assert call(page, "workers.runs", driver) == "large (layers are missing)"
    assert call(page, "workers.runs", driver | {"models": [{"id": "tiny"}]}) == "tiny, large (layers are missing)"
    assert call(page, "workers.runs", {"models": []}) == ""


@pytest.mark.parametrize(
    ("worker", "shown"),
    [
        ({"reason": None}, ""),
        ({"reason": "peer_lost", "cooldown_s": 2.2}, "peer lost, 3 s more"),
        ({"reason": None, "audit": {"verdict": "passed", "tokens": 900, "auditors": 2, "log_e": -9.1}}, ""),
        ({"reason": None, "audit": {"verdict": "unverifiable", "compared": 0}}, "unverifiable"),
        (
            {"reason": None, "audit": {"verdict": "unverifiable", "compared": 5, "alike": 4}},
            "unverifiable, 4 of 5 answers as others'",
        ),
        (
            {
                "reason": "unlike_its_model",
                "audit": {"verdict": "flagged", "tokens": 1075, "auditors": 2, "log_e": 14.9},
            },
            "unlike its model, 1,075 tokens, evidence 14.9 by 2 auditors",
        ),
        (
            {"reason": None, "audit": {"verdict": "suspected", "tokens": 75, "auditors": 1, "log_e": 5.0}},
            "suspected: 75 tokens, evidence 5 by 1 auditor",
        ),
    ],
)
def test_why_a_worker_is_as_it_is(page: Page, worker: dict[str, Any], shown: str) -> None:
    assert call(page, "workers.because", worker) == shown


@pytest.mark.parametrize(
    ("function", "given", "shown"),
    [
        ("count", 1234567, "1,234,567"),
        ("rate", None, "\u2013"),
        ("rate", 0, "0"),
        ("rate", 0.004, "<0.01"),
        ("rate", 0.04, "0.04"),
        ("rate", 0.094, "0.09"),
        ("rate", 0.096, "0.1"),
        ("rate", 9.94, "9.9"),
        ("rate", 9.96, "10"),
        ("rate", 1234.5, "1,235"),
        ("speed", None, "\u2013"),
        ("speed", 41.04, "41 tok/s"),
        ("seconds", None, "\u2013"),
        ("seconds", 0, "0 ms"),
        ("seconds", 0.0994, "99 ms"),
        ("seconds", 0.0996, "0.10 s"),
        ("seconds", 9.994, "9.99 s"),
        ("seconds", 9.996, "10 s"),
        ("seconds", 61, "1 min"),
        ("span", -5, "0 s"),
        ("span", 59.9, "59 s"),
        ("span", 3599, "59 min"),
        ("span", 3600, "1 h"),
        ("span", 4000, "1 h 6 min"),
        ("span", 90000, "1 d 1 h"),
        ("percent", None, "\u2013"),
        ("percent", 1, "100 %"),
        ("percent", 0.99999, "99.9 %"),
        ("percent", 0, "0.0 %"),
        ("shortId", "12D3KooWabcdefgh", "\u2026abcdefgh"),
        ("shortId", "short", "short"),
    ],
)
def test_numbers_and_times_as_people_read_them(page: Page, function: str, given: float, shown: str) -> None:
    assert call(page, f"format.{function}", given) == shown


@pytest.mark.parametrize(
    ("gaps", "words", "command"),
    [
        ([[12, 18]], "layers 12 to 18 are missing", "p2pnet serve --model ./large --layers 12:18"),
        ([[0, 2], [9, 12]], "layers 0 to 2 and 9 to 12 are missing", "p2pnet serve --model ./large --layers 0:2"),
    ],
)
def test_which_layers_are_missing_and_what_serves_them(
    page: Page, gaps: list[list[int]], words: str, command: str
) -> None:
    assert call(page, "missing.inWords", gaps) == words
    assert call(page, "missing.serves", "large", gaps) == command
    assert call(page, "missing.serves", "org/large", gaps) == command.replace("./large", "org/large")


ONE, OTHER = [[0, 0], [5, 5]], [[0, 0], [9, 9]]


@pytest.mark.parametrize(
    ("workers", "served", "ways", "drawn"),
    [
        ([("a", 0, 7)], {"a": 7}, {"a": ONE}, []),
        ([("a", 2, 7)], {"a": 7}, {"a": ONE}, [(ONE, 2)]),
        ([("a", 0, 9)], {"a": 7}, {"a": ONE}, [(ONE, 2)]),
        ([("a", 1, 7)], {}, {"a": ONE}, [(ONE, 1)]),
        ([("a", 0, 3)], {"a": 7}, {"a": ONE}, []),
        ([("a", 1, 0), ("b", 5, 0)], {}, {"a": ONE, "b": OTHER}, [(OTHER, 5), (ONE, 1)]),
        ([("a", 1, 0), ("b", 5, 0)], {}, {"a": ONE, "b": ONE}, [(ONE, 6)]),
        ([("a", 1, 0), ("b", 5, 0)], {}, {"a": ONE}, [(ONE, 1)]),
        ([(str(n), n, 0) for n in range(40)], {}, {str(n): [[0, 0], [n, n]] for n in range(40)}, 16),
    ],
)
def test_which_requests_move_over_the_map(
    page: Page, workers: list[tuple[str, int, int]], served: dict[str, int], ways: dict[str, Any], drawn: Any
) -> None:
    script = """async ([workers, served, ways]) => {
        const { pulses, underWay } = await import("/static/mesh_motion.js");
        const known = workers.map(([id, in_flight, requests]) => ({ id, in_flight, measured: { requests } }));
        const many = underWay(known, new Map(Object.entries(served)));
        return pulses(many, new Map(Object.entries(ways))).map(({ points, many }) => [points, many]);
    }"""
    found = page.evaluate(script, [workers, served, ways])
    assert (len(found) if isinstance(drawn, int) else list(map(tuple, found))) == drawn


STREAM = (
    ": keep-alive\n\n"
    'event: gateway\ndata: {"a": "é€😀"}\n\n'
    "data: one\r\ndata:two\r\n\r\n"
    "event: x\rdata\r\r"
    "event: without data\n\n"
    "id: 7\nretry: 5\nunknown: field\ndata:  spaced\n\n"
    "data: cut off by the en"
)
EVENTS = [
    {"event": "gateway", "data": '{"a": "é€😀"}'},
    {"event": "message", "data": "one\ntwo"},
    {"event": "x", "data": ""},
    {"event": "message", "data": " spaced"},
]


def test_events_are_the_same_wherever_the_stream_is_cut(page: Page) -> None:
    """In two at every byte, and byte by byte."""
    script = """async (bytes) => {
        const { eventsOf } = await import("/static/sse.js");
        const read = async (pieces) => {
            const body = new ReadableStream({ start(stream) {
                for (const piece of pieces) stream.enqueue(new Uint8Array(piece));
                stream.close();
            } });
            const events = [];
            for await (const event of eventsOf(body)) events.push(event);
            return JSON.stringify(events);
        };
        const seen = new Set([await read([bytes]), await read(bytes.map((byte) => [byte]))]);
        for (let i = 0; i <= bytes.length; i++) seen.add(await read([bytes.slice(0, i), bytes.slice(i)]));
        return [...seen];
    }"""
    seen = page.evaluate(script, list(STREAM.encode()))
    assert [json.loads(one) for one in seen] == [EVENTS]


NASTY = (
    *ATTACKS,
    'it\'s; $(touch x) `y` \\ "quoted" $HOME !! %s {brace}',
    "lines\nand\ttabs\r\n\u2028\u2029\x00\x1b[31m",
    "\\u0041 \\n '''\"\"\" é€😀 \u202e",
    "'",
    "\\",
    "",
)

STUB = """
import json

class OpenAI:
    def __init__(self, **settings):
        self.settings = settings
        self.chat = self.completions = self

    def create(self, **fields):
        print(json.dumps(self.settings | fields))
        return []
"""
"""Stands in for the package: says what it is asked, and answers nothing."""


@pytest.mark.parametrize("text", NASTY)
def test_a_command_and_a_program_carry_every_text_as_it_is(page: Page, text: str, tmp_path: Path) -> None:
    body = {
        "model": text,
        "messages": [{"role": "system", "content": text}, {"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "seed": 7,
    }
    curl = call(page, "snippets.asCurl", "http://gateway/v1", body, True)
    python = call(page, "snippets.asPython", "http://gateway/v1", body, True)

    shell = "curl() { printf '%s\\0' \"$@\"; }\n" + curl
    done = subprocess.run(
        ["bash", "-c", shell], env={"P2PNET_API_KEY": "k"}, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    arguments = done.stdout.decode().split("\0")[:-1]
    assert arguments[:-1] == [
        *("-N", "http://gateway/v1/chat/completions", "-H", "Content-Type: application/json"),
        *("-H", "Authorization: Bearer k", "-d"),
    ]
    assert json.loads(arguments[-1]) == body

    (tmp_path / "openai.py").write_text(STUB)
    done = subprocess.run(
        [sys.executable, "-c", python],
        env={"P2PNET_API_KEY": "k", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    asked = json.loads(done.stdout)
    assert (asked.pop("base_url"), asked.pop("api_key")) == ("http://gateway/v1", "k")
    assert asked == {name: value for name, value in body.items() if name != "stream_options"}


def test_without_a_key_there_is_none_in_them(page: Page) -> None:
    body = {"model": "tiny", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    assert "Authorization" not in call(page, "snippets.asCurl", "http://gateway/v1", body, False)
    assert 'api_key="unused"' in call(page, "snippets.asPython", "http://gateway/v1", body, False)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((100, 50), (100, 50)), ((1024, 1024), (1024, 1024)), ((4096, 2048), (1024, 512)), ((9, 90000), (1, 1024))],
)
def test_how_large_an_image_becomes(page: Page, size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert call(page, "images.fitted", *size) == {"width": fitted[0], "height": fitted[1]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [('{"a":[1,"b"]}', '{\n  "a": [\n    1,\n    "b"\n  ]\n}'), ('{"a":', '{"a":'), ("", ""), ("7", "7")],
)
def test_arguments_are_set_as_json_is_read(page: Page, text: str, shown: str) -> None:
    assert call(page, "chat_stream.pretty", text) == shown


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", []),
        ("one\ntwo", [("text", "one\ntwo", "")]),
        ("a\n```python\nx = 1\n\n```\nb", [("text", "a", ""), ("code", "x = 1\n", "python"), ("text", "b", "")]),
        ("```\nopen <b>", [("code", "open <b>", "")]),
        ("````\n```\n````", [("code", "```", "")]),
        ("not ``` a fence", [("text", "not ``` a fence", "")]),
    ],
)
def test_fences_of_code(page: Page, text: str, blocks: list[tuple[str, str, str]]) -> None:
    found = call(page, "rich_text.blocksOf", text)
    assert [(block["kind"], block["text"], block["language"]) for block in found] == blocks


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one\ntwo\n\nthree", [("text", "one\ntwo"), ("text", "three")]),
        ("# A\n## B\nc", [("heading", "# A"), ("heading", "## B"), ("text", "c")]),
        ("- a\n  more\n* b\n1. c\n\nd", [("list", "- a\n  more\n* b\n1. c"), ("text", "d")]),
        ("a\n- b", [("text", "a"), ("list", "- b")]),
        ("|a|b|\n|-|-|\n|1|2|\nend", [("table", "|a|b|\n|-|-|\n|1|2|"), ("text", "end")]),
        ("a|b\n--|:-:\n1|2", [("table", "a|b\n--|:-:\n1|2")]),
        ("a|b\nc|d", [("text", "a|b\nc|d")]),
        ("> a\n> b\nc", [("quote", "> a\n> b"), ("text", "c")]),
        ("#no heading\n-no item\n1.5 is a number", [("text", "#no heading\n-no item\n1.5 is a number")]),
        ("", []),
    ],
)
def test_parts_of_a_text(page: Page, text: str, parts: list[tuple[str, str]]) -> None:
    assert [(part["kind"], part["text"]) for part in call(page, "rich_text.partsOf", text)] == parts


@pytest.mark.parametrize(
    ("line", "cells"),
    [("| a | b |", ["a", "b"]), ("a|b", ["a", "b"]), (r"|a \| b||", ["a | b", ""]), ("|", [""])],
)
def test_cells_of_a_table(page: Page, line: str, cells: list[str]) -> None:
    assert call(page, "rich_text.cellsOf", line) == cells


def shown_as_html(page: Page, *texts: str) -> str:
    """What is in the document when these have been shown one after the other."""
    script = """async (texts) => {
        const { show } = await import("/static/rich_text.js");
        const body = document.createElement("div");
        for (const text of texts) show(body, text);
        body.querySelectorAll("button").forEach((button) => button.remove());
        return new XMLSerializer().serializeToString(body).replaceAll(/ (?:xmlns|class|tabindex|style)="[^"]*"/g, "");
    }"""
    return str(page.evaluate(script, list(texts)))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** *b* `c*d*` 2 * 3 * 4", "<p><strong>a</strong> <em>b</em> <code>c*d*</code> 2 * 3 * 4</p>"),
        ("# A *b*", "<h4>A <em>b</em></h4>"),
        ("- a\n2. b", "<ul><li>\u2022 a</li><li>2. b</li></ul>"),
        ("|a|\n|-|\n|`b`|", "<div><table><thead><tr><th>a</th></tr></thead><tbody><tr><td><code>b</code></td></tr>"
         "</tbody></table></div>"),
        ("> a", "<blockquote>a</blockquote>"),
        ("```x\na\n```", '<div><pre aria-label="Code, x"><code>a</code></pre></div>'),
        ("[a](javascript:b) ![c](d)", "<p>[a](javascript:b) ![c](d)</p>"),
        ("**<b>**", "<p><strong>&lt;b&gt;</strong></p>"),
        ("`" * 100_000, '<div><pre aria-label="Code"><code></code></pre></div>'),
        ("x" + "`" * 100_000, f"<p>x{'`' * 100_000}</p>"),
    ],
)  # fmt: skip
def test_what_is_marked_is_set_and_nothing_leads_anywhere(page: Page, text: str, html: str) -> None:
    assert shown_as_html(page, text) == f"<div>{html}</div>"


def test_an_answer_looks_the_same_however_it_came(page: Page) -> None:
    text = "# A\n\n- b\n- c\n\n|d|e|\n|-|-|\n|f|g|\n\n```x\nh\ni\n```\n\n> j\n\n**k** l"
    pieces = [text[:end] for end in range(1, len(text) + 1)]
    assert shown_as_html(page, *pieces) == shown_as_html(page, text)


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [(0, [0, 1]), (0.7, [0, 0.5, 1]), (3, [0, 1, 2, 3]), (40, [0, 20, 40]), (1234, [0, 500, 1000, 1500])],
)
def test_the_marks_of_a_scale_are_round_and_reach_the_highest_value(
    page: Page, highest: float, ticks: list[float]
) -> None:
    assert call(page, "chart_scale.ticks", highest) == ticks


@pytest.mark.parametrize(
    ("values", "window", "means"),
    [
        ([6, 0, 0], 3, [6, 3, 2]),
        ([6, 0, 0, 6], 2, [6, 3, 0, 3]),
        ([None, 4, None, None], 2, [None, 4, 4, None]),
        ([], 6, []),
    ],
)
def test_a_line_is_smoothed_over_what_came_before(
    page: Page, values: list[float | None], window: int, means: list[float | None]
) -> None:
    assert call(page, "chart_scale.smoothed", values, window) == means


def test_failures_of_a_kind_are_one_that_says_when_it_was_last(page: Page) -> None:
    def failure(at: int, worker: str | None, outcome: str) -> dict[str, Any]:
        return {"at": at, "worker": worker, "outcome": outcome, "model": "tiny", "done": "retried"}

    told = [(4, "a", "busy"), (3, "b", "busy"), (2, "a", "busy"), (1, None, "no_worker"), (0, "a", "peer_lost")]
    found = call(page, "overview.grouped", [failure(*one) for one in told])
    groups = [(one["last"]["at"], one["last"]["worker"], one["times"]) for one in found]
    assert groups == [(4, "a", 2), (3, "b", 1), (1, None, 1), (0, "a", 1)]


OWN = "/ip4/127.0.0.1/tcp/1/p2p/x"
NEAR = "/ip4/192.168.1.4/tcp/1/p2p/x"
FAR = "/ip4/203.0.113.7/tcp/1/p2p/x"


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1", [OWN, NEAR, FAR]),
        ("localhost", [OWN, NEAR, FAR]),
        ("[::1]", [OWN, NEAR, FAR]),
        ("192.168.1.9", [NEAR, FAR]),
        ("172.20.1.9", [NEAR, FAR]),
        ("[fd00::1]", [NEAR, FAR]),
        ("attic", [NEAR, FAR]),
        ("attic.local", [NEAR, FAR]),
        ("gateway.example", [FAR]),
        ("172.200.1.9", [FAR]),
        ("100.20.1.9", [FAR]),
        ("[2001:db8::1]", [FAR]),
    ],
)
def test_strangers_are_sent_to_no_address_of_the_gateways_own(page: Page, host: str, found: list[str]) -> None:
    assert call(page, "join.reachableFrom", [OWN, NEAR, FAR], host) == found


@pytest.mark.parametrize(
    ("address", "is_told"),
    [
        ("/ip6/::1/udp/1/quic-v1", False),
        ("/dns4/localhost/tcp/1", False),
        ("/ip6/fe80::1/tcp/1", False),
        ("/ip4/172.16.0.1/tcp/1", False),
        ("/ip4/10.0.0.1/tcp/1", False),
        ("/ip4/100.0.0.1/tcp/1", True),
        ("/ip6/2001:db8::1/tcp/1", True),
        ("/dns/localhost.example/tcp/1", True),
    ],
)
def test_which_addresses_strangers_are_told(page: Page, address: str, is_told: bool) -> None:
    assert call(page, "join.reachableFrom", [address], "gateway.example") == [address] * is_told


def test_gaps_break_a_line_and_a_lone_value_is_a_dot(page: Page) -> None:
    assert call(page, "chart_scale.runs", [None, 1, 2, None, 3, None]) == [[1, 3], [4, 5]]
    path = (
        """async () => (await import("/static/chart_scale.js")).linePath([1, 2, null, 3], (i) => i * 10, (v) => -v)"""
    )
    assert page.evaluate(path) == "M0 -1L10 -2M30 -3h0"


@pytest.mark.parametrize(("workers", "bootstraps"), [(0, 0), (1, 0), (3, 1), (3, 2), (24, 3), (200, 2), (200, 12)])
@pytest.mark.parametrize(("width", "height"), [(334, 460), (1240, 560)])
def test_on_the_map_nobody_is_outside_and_nobody_hides_another(
    page: Page, workers: int, bootstraps: int, width: int, height: int
) -> None:
    mesh = network(workers, bootstraps)["mesh"]
    placed = call(page, "mesh_layout.layout", mesh, {"width": width, "height": height})
    nodes = {node["id"]: node for node in placed["nodes"]}
    assert set(nodes) == {node["id"] for node in mesh["nodes"]}
    for node in nodes.values():
        assert node["r"] <= node["x"] <= width - node["r"]
        assert node["r"] <= node["y"] <= placed["height"] - node["r"]
    assert placed["height"] <= height
    grouped = [worker for disc in placed["discs"] for worker in disc["workers"]]
    drawn = [node["id"] for node in mesh["nodes"] if node["kind"] == "worker"]
    assert sorted(grouped) == (sorted(drawn) if workers > 24 else [])
    spots = list(nodes.values())
    apart = [
        (one["x"] - other["x"]) ** 2 + (one["y"] - other["y"]) ** 2 >= (max(one["r"], other["r"])) ** 2
        for n, one in enumerate(spots)
        for other in spots[:n]
    ]
    assert all(apart)
    relayed = [link for link in placed["links"] if link["kind"] == "relayed"]
    assert all(len(link["points"]) == 3 for link in relayed)
    assert len(relayed) == sum(link["kind"] == "relayed" for link in mesh["links"])


@pytest.mark.parametrize(
    ("attempts", "gap_s", "workers"),
    [
        ([("a", 5)], None, ["a"]),
        ([("a", 5), ("b", 7)], 0.2, ["a", "b"]),
        ([("a", 0), ("b", 7)], None, ["b"]),
        ([("a", 5), ("b", 0), ("c", 3)], 1.0, ["a", "c"]),
        ([("a", 0)], None, ["a"]),
        ([], None, []),
    ],
)
def test_who_gave_an_answer(
    page: Page, attempts: list[tuple[str, int]], gap_s: float | None, workers: list[str]
) -> None:
    report = {"gap_s": gap_s, "attempts": [{"worker": worker, "tokens": tokens} for worker, tokens in attempts]}
    assert call(page, "who_answered.routeOf", report) == {"workers": workers, "gapS": gap_s}
